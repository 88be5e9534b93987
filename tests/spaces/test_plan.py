"""Shares of units become counts of weights."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.errors import StrategyError
from unicuco_plugin.spaces.plan import plan_counts

SIZES = {
    f"model.layers.{block}.{name}": size
    for block in range(3)
    for name, size in (("self_attn.q_proj", 1024), ("self_attn.o_proj", 512), ("mlp.up_proj", 1536))
}
SHARES = st.floats(min_value=0.0, max_value=1.0, exclude_min=True)


@st.composite
def layouts(draw):
    """Linears of many sizes, each a unit of its own, some covered."""
    sizes = {f"m.{i}.l": n for i, n in enumerate(draw(st.lists(st.integers(1, 10**7), min_size=1, max_size=40)))}
    covered = draw(st.lists(st.sampled_from(sorted(sizes)), min_size=1, unique=True))
    return {name: draw(SHARES) for name in covered}, sizes


@given(layouts())
def test_the_counts_sum_to_the_rounded_target_and_each_is_within_one_weight_of_its_own(layout):
    units, sizes = layout
    counts = plan_counts(units, sizes)
    targets = {name: Fraction(share) * sizes[name] for name, share in units.items()}
    assert sum(counts.values()) == round(sum(targets.values()))
    assert set(counts) == set(units)
    for name, count in counts.items():
        assert isinstance(count, int)
        assert 0 <= count <= sizes[name]
        assert abs(count - targets[name]) < 1


@given(layouts(), st.randoms(use_true_random=False))
def test_the_order_in_which_units_are_given_does_not_matter(layout, chance):
    units, sizes = layout
    shuffled = list(units.items())
    chance.shuffle(shuffled)
    assert plan_counts(units, sizes) == plan_counts(dict(shuffled), sizes)


@given(layouts(), st.data())
def test_a_total_near_the_sum_is_met_exactly(layout, data):
    units, sizes = layout
    floors = {name: int(Fraction(share) * sizes[name]) for name, share in units.items()}
    room = sum(floors[name] < sizes[name] for name in units)
    total = data.draw(st.integers(sum(floors.values()), sum(floors.values()) + room))
    counts = plan_counts(units, sizes, total)
    assert sum(counts.values()) == total
    assert all(floors[name] <= count <= min(floors[name] + 1, sizes[name]) for name, count in counts.items())


@given(st.floats(min_value=1e-3, max_value=0.999))
def test_a_uniform_request_is_met_to_one_weight_in_a_million(share):
    sizes = {f"m.{i}.l": 331_776 + 7 * i for i in range(210)}
    counts = plan_counts(dict.fromkeys(sizes, share), sizes)
    assert math.isclose(sum(counts.values()) / sum(sizes.values()), share, rel_tol=0, abs_tol=1e-6)


@pytest.mark.parametrize(
    ("units", "covered"),
    [
        ({"model.layers.1": 0.5}, [name for name in SIZES if ".1." in name]),
        ({"model.layers.1.self_attn": 0.5}, ["model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.o_proj"]),
        ({"model.layers.1.mlp.up_proj": 0.5}, ["model.layers.1.mlp.up_proj"]),
        ({"model.layers.2": 0.25, "model.layers.0.mlp": 0.75}, ["model.layers.0.mlp.up_proj", *list(SIZES)[6:]]),
    ],
    ids=["block", "sublayer", "linear", "mixed"],
)
def test_a_unit_covers_the_linears_below_its_name_in_the_models_order(units, covered):
    assert list(plan_counts(units, SIZES)) == covered


def test_a_name_that_merely_begins_alike_is_not_covered():
    sizes = {"model.layers.1.l": 10, "model.layers.11.l": 10}
    assert plan_counts({"model.layers.1": 1.0}, sizes) == {"model.layers.1.l": 10}


def test_equal_remainders_go_to_the_earlier_linear():
    sizes = {"a.x": 5, "a.y": 5, "a.z": 5, "a.w": 5}
    assert plan_counts({"a": 0.5}, sizes) == {"a.x": 3, "a.y": 3, "a.z": 2, "a.w": 2}


def test_no_units_plan_nothing():
    assert plan_counts({}, SIZES) == {}


@pytest.mark.parametrize(
    ("units", "total", "message"),
    [
        ({"model.layers.7": 0.5}, None, r"units must cover prunable linears of the model; model\.layers\.7 cover none"),
        ({"model.layers.1.norm": 0.5}, None, "cover none"),
        ({f"n{i}": 0.5 for i in range(5)}, None, "n0, n1, n2, … cover none"),
        (
            {"model.layers.1": 0.5, "model.layers.1.mlp": 0.5},
            None,
            r"units model\.layers\.1 and model\.layers\.1\.mlp both cover model\.layers\.1\.mlp\.up_proj",
        ),
        ({"model.layers.1": 0.0}, None, r"units\['model\.layers\.1'\] must be in \(0, 1\], got 0\.0"),
        ({"model.layers.1": 1.5}, None, r"must be in \(0, 1\], got 1\.5"),
        ({"model.layers.1": math.nan}, None, r"must be in \(0, 1\], got nan"),
        ({"model.layers.1": 0.5}, 1535, r"total must be in \[1,536, 1,539\] for these units, got 1,535"),
        ({"model.layers.1": 1.0}, 3073, r"total must be in \[3,072, 3,072\] for these units, got 3,073"),
    ],
)
def test_what_cannot_be_planned_is_refused(units, total, message):
    with pytest.raises(StrategyError, match=message):
        plan_counts(units, SIZES, total)
