"""What single units cost, from any function that measures strategies."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.errors import LevelsError
from unicuco_plugin.scores.single_units import (
    at_least,
    find_neighbours,
    measure_alone,
    measure_gone,
    measure_rounds,
    measure_uniform,
    unit_costs,
)
from unicuco_plugin.spaces.compound import CompoundSpace
from unicuco_plugin.spaces.precision import PrecisionSpace

CHOICES = (("dense", 16.0, 200), ("W8A16:channel", 8.0, 100), ("W4A16:channel", 4.0, 50), ("W3A16:channel", 3.0, 38))
SPACE = PrecisionSpace(tuple(f"l{i}" for i in range(30)), (100,) * 30, (CHOICES,) * 30)


@pytest.mark.parametrize(
    ("divergences", "pair"),
    [
        ([0.0, 0.01, 0.3, 1.5], (2, 3)),
        ([0.0, 0.2, 0.9, 5.0, 9.0], (1, 2)),
        ([0.0, 0.4], (0, 1)),  # the dense model where there is no other
        ([0.0, 0.5, 40.0], (1, 2)),  # and not where there is one, however far
    ],
)
def test_neighbours_lie_around_half_a_nat(divergences, pair):
    assert find_neighbours(divergences) == pair


def test_one_unit_at_a_time_is_changed_and_found_again_in_its_place():
    harms = torch.rand(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    uniform, divergences = measure_uniform(SPACE, lambda _, rows: (rows @ harms).tolist())
    assert uniform.tolist() == [[share] * 30 for share in (0.0, 0.5, 0.75, 0.8125)]
    assert divergences == pytest.approx([share * harms.sum().item() for share in (0.0, 0.5, 0.75, 0.8125)])
    asked = []

    def measure(name, rows):
        asked.append((name, len(rows)))
        assert ((rows != uniform[2]).sum(1) == 1).all()
        return (rows @ harms).tolist()

    D = measure_alone(measure, "units", uniform[2], uniform[3])
    torch.testing.assert_close(D - divergences[2], 0.0625 * harms)
    assert asked == [("units from 0", 12), ("units from 12", 12), ("units from 24", 6)]


@given(st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=9))
def test_noise_makes_no_harm_negative_and_leaves_others_as_they_are(values):
    harm = torch.tensor(values, dtype=torch.float64)
    found = at_least(harm)
    assert (found > 0.0).all()
    large = harm >= max(0.05 * harm.median().item(), 1e-12)
    assert (found[large] == harm[large]).all()


def test_costs_are_the_harm_between_two_schemes_and_go_as_losses_along_the_others():
    losses = torch.tensor([[0.0, 1.0, 4.0, 10.0], [0.0, 2.0, 3.0, torch.inf]], dtype=torch.float64)
    wide, narrow = torch.tensor([1, 1]), torch.tensor([3, 2])
    C = unit_costs(torch.tensor([0.9, 0.5], dtype=torch.float64), losses, wide, narrow)
    torch.testing.assert_close(C[0], torch.tensor([0.0, 0.1, 0.4, 1.0], dtype=torch.float64))
    assert C[1].tolist() == pytest.approx([0.0, 1.0, 1.5, torch.inf])


def test_a_unit_that_loses_nothing_costs_nothing_and_takes_no_scheme_from_the_others():
    narrowest = (CHOICES[0], CHOICES[3])  # of as good schemes the smallest is offered
    space = PrecisionSpace(SPACE.unit_names, SPACE.unit_params, (narrowest, *SPACE.choices[1:]))
    uniform, divergences = measure_uniform(space, lambda _, rows: [0.01, 0.3, 1.5][: len(rows)])
    assert uniform[1:, 0].tolist() == [0.8125] * 3
    assert uniform[:, 1:].tolist() == [[share] * 29 for share in (0.0, 0.5, 0.75, 0.8125)]
    wide, narrow = (space.places(uniform[place]) for place in find_neighbours(divergences))
    losses = torch.tensor([[0.0, 0.0, torch.inf, torch.inf]] + [[0.0, 1.0, 4.0, 10.0]] * 29, dtype=torch.float64)
    C = unit_costs(torch.full((30,), 0.6, dtype=torch.float64), losses, wide, narrow)
    assert C[0].tolist() == [0.0, 0.0, torch.inf, torch.inf]
    assert C[1].tolist() == pytest.approx([0.0, 0.1, 0.4, 1.0])
    [found] = space.cheapest(C, [(0.8125 + 29 * 0.75) / 30])
    assert space.places(found).tolist() == [1] + [2] * 29


def test_units_of_which_no_half_has_a_scheme_in_common_are_refused():
    rows = tuple((CHOICES[0], choice) for choice in CHOICES[1:])
    space = PrecisionSpace(("a", "b", "c"), (100,) * 3, rows)
    with pytest.raises(LevelsError, match=r"^the level database offers no scheme to more than half of 3 units"):
        measure_uniform(space, lambda *_: [])


BLOCKS = 9
NAMES = tuple(f"model.layers.{i // 2}.{'self_attn' if i % 2 else 'mlp'}" for i in range(2 * BLOCKS))
WHOLE = CompoundSpace(NAMES, (100,) * len(NAMES), ((*CHOICES, ("removed", 0.0, 0)),) * len(NAMES))


def pairs_cost_more(asked):
    """Blocks cost one to nine tenths each, and the first two far more together."""

    def measure(name, rows):
        asked.append((name, len(rows)))
        gone = (rows >= 1.0)[:, ::2].double()
        assert torch.equal(gone, (rows >= 1.0)[:, 1::2].double())  # never half a block
        own = torch.arange(1, BLOCKS + 1, dtype=torch.float64) / 10.0
        return (0.3 + gone @ own + 5.0 * gone[:, 0] * gone[:, 2]).tolist()

    return measure


def test_blocks_are_measured_again_beside_those_that_are_gone():
    asked = []
    others = WHOLE.uniform()["W4A16:channel"]
    order, costs = measure_rounds(pairs_cost_more(asked), "blocks", WHOLE, others, 0.3)
    # The first two of nine go, then the next two; the third is dear once the first is gone.
    assert order.tolist()[:4] == [0, 1, 3, 4]
    assert set(order.tolist()) == set(range(BLOCKS))
    assert costs[[0, 1, 3, 4]].tolist() == pytest.approx([0.1, 0.2, 0.4, 0.5])
    assert costs[2].item() == pytest.approx(5.3)
    assert [count for name, count in asked if "from" not in name] == [1, 1]
    assert [name for name, _ in asked][:3] == ["blocks from 0", "blocks without 0,1", "blocks without 0,1 from 0"]
    assert sum(count for _, count in asked) == BLOCKS + 1 + (BLOCKS - 2) + 1 + (BLOCKS - 4)


def test_a_block_that_is_needed_costs_infinitely_much():
    asked = []
    space = CompoundSpace(WHOLE.unit_names, WHOLE.unit_params, WHOLE.choices, needed=((2, 3, 4, 5),))
    others = space.uniform()["W4A16:channel"]
    found = measure_gone(pairs_cost_more(asked), "blocks", space, others, gone=[1])
    assert found.isinf().tolist() == [False, True, True, *[False] * 6]
    assert found[0].item() == pytest.approx(0.3 + 0.1 + 0.2)
