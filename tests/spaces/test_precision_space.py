"""Schemes of units: budgets to the bit against brute force, exchanges, and round trips."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unicuco_plugin.errors import RequestError, StrategyError
from unicuco_plugin.schemes import DENSE, parse_scheme
from unicuco_plugin.spaces.precision import PrecisionSpace


def choices(columns, names):
    found = [(DENSE, 16.0, 0)] + [(name, parse_scheme(name).bits_per_weight(columns), 0) for name in names]
    return tuple(sorted(found, key=lambda choice: -choice[1]))


def make(sizes, names, columns=64):
    kinds = ("self_attn.q_proj+k_proj+v_proj", "self_attn.o_proj", "mlp.gate_proj+up_proj", "mlp.down_proj")
    units = tuple(f"model.layers.{i // 4}.{kinds[i % 4]}" for i in range(len(sizes)))
    return PrecisionSpace(units, tuple(sizes), (choices(columns, names),) * len(sizes))


WIDTHS = ("W8A16:g64", "W6A16:g64", "W5A16:g64", "W4A16:g64", "W3A16:g64")
# SmolLM2-135M's proportions, in two blocks and in all thirty.
SIZES = (552960, 331776, 1769472, 884736)
SMALL = make(SIZES[:4], WIDTHS)
REAL = make(SIZES * 30, WIDTHS)
# Units of odd sizes whose schemes differ.
ODD = PrecisionSpace(
    tuple(f"model.layers.{i}.mlp" for i in range(4)),
    (640, 1024, 64 * 37, 64 * 5),
    (
        choices(64, WIDTHS[2:]),
        choices(64, ("W8A16:channel", "W2A16:g32:asym")),
        choices(64, ("W4A16:g64:asym", "W4A16:g64")),
        choices(64, WIDTHS),
    ),
)
every = pytest.mark.parametrize("space", [SMALL, ODD], ids=["smollm2", "odd"])
scores = arrays("float64", (2, 4), elements=st.floats(-4, 4)).map(torch.from_numpy)


def bits_of(space, x):
    """Whole bits of strategies, counted from names."""
    totals = []
    for row in x:
        named = space.to_units(row)
        total = 0
        for unit, n, offered in zip(space.units, space.unit_params, space.choices, strict=True):
            bits = next(bits for name, bits, _ in offered if name == named.get(unit, DENSE))
            total += round(bits * n)
        totals.append(total)
    return torch.tensor(totals)


@every
@given(z=scores, share=st.floats(0.0, 1.0))
def test_a_budget_is_never_exceeded_and_nobody_could_be_given_a_step_more(space, z, share):
    weights = sum(space.unit_params)
    low, high = 16.0 * (1.0 - space.most), 16.0
    bits = low + share * (high - low)
    allowed = math.floor(bits * weights + 1e-6)
    x = space.project(z, 1.0 - bits / 16.0)
    used = bits_of(space, x)
    assert bool((used <= allowed).all())
    for row, own in zip(x, used.tolist(), strict=True):
        k = [int(part) for part in space.key(row).split(",")]
        wider = [
            own + round((offered[place - 1][1] - offered[place][1]) * n)
            for place, n, offered in zip(k, space.unit_params, space.choices, strict=True)
            if place
        ]
        assert all(total > allowed for total in wider) or sum(k) == 1  # any budget takes a step


@given(z=arrays("float64", (1, 120), elements=st.floats(-4, 4)).map(torch.from_numpy), bits=st.floats(3.3, 8.0))
def test_in_a_whole_model_budgets_are_met_within_the_smallest_step(z, bits):
    x = REAL.project(z, 1.0 - bits / 16.0)
    missed = bits * sum(REAL.unit_params) - bits_of(REAL, x).item()
    assert -1e-6 <= missed < min(REAL.unit_params)  # the smallest step is a bit of the smallest unit


@pytest.mark.parametrize("bits", [3.25, 4.25, 6.25])
def test_a_budget_of_one_scheme_is_met_by_it_from_equal_scores(bits):
    x = REAL.project(torch.zeros(1, 120, dtype=torch.float64), 1.0 - bits / 16.0)
    assert set(REAL.to_units(x[0]).values()) == {f"W{int(bits)}A16:g64"}
    assert torch.equal(x[0], REAL.uniform()[f"W{int(bits)}A16:g64"])


def test_the_narrowest_schemes_answer_a_share_that_rounding_puts_beyond_them():
    # A few bits of 1e14 in all: more than what a budget in whole bits forgives.
    space = make((10**12 + 1,) * 4, WIDTHS)
    x = space.project(torch.zeros(1, 4, dtype=torch.float64), space.most + 5e-13)
    assert set(space.to_units(x[0]).values()) == {"W3A16:g64"}


def test_fewer_bits_than_there_are_is_refused_with_the_floor():
    with pytest.raises(RequestError, match=r"^bits must be at least 3\.25, the narrowest scheme .*; got 3$"):
        REAL.reaching(1.0 - 3 / 16)


@every
@given(data=st.data())
def test_scores_lead_back_and_names_and_keys_come_back(space, data):
    k = data.draw(st.tuples(*(st.integers(0, len(row) - 1) for row in space.choices)))
    x = space.parse(",".join(map(str, k)))
    torch.testing.assert_close(space.from_units(space.to_units(x)), x, rtol=0, atol=0)
    assert space.parse(space.key(x.round(decimals=6))).equal(x)
    if any(k):
        assert space.project(space.scores(x)[None], space.sparsity(x[None]).item())[0].equal(x)


@given(z=scores)
def test_relaxed_strategies_have_the_sigmoids_gradient(z):
    z.requires_grad_(True)
    x = SMALL.relax(z)
    torch.testing.assert_close(SMALL.rounded(x.detach()), x.detach(), rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(x.sum(), z)
    torch.testing.assert_close(gradient, (z.sigmoid() * (1 - z.sigmoid())).detach())


@pytest.mark.slow
@pytest.mark.parametrize("bits", [3.5, 4.25, 7.0])
def test_neighbours_exchange_steps_and_never_use_more_bits(bits):
    x = REAL.project(torch.zeros(1, 120, dtype=torch.float64), 1.0 - bits / 16.0)
    moves = REAL.neighbours(x)[0]
    assert len({REAL.key(row) for row in moves}) > 200
    own = bits_of(REAL, x).item()
    used = bits_of(REAL, moves)
    assert bool((used <= own).all())
    assert bool((own - used < min(REAL.unit_params)).all())


def test_neighbours_of_units_of_one_size_are_the_exchanges_of_two():
    space = make((640,) * 4, WIDTHS)
    x = space.from_units(dict.fromkeys(space.units, "W4A16:g64"))
    found = {tuple(space.to_units(row).values()) for row in space.neighbours(x[None])[0]}
    pair = ("W3A16:g64", "W5A16:g64", "W4A16:g64", "W4A16:g64")
    assert found == set(itertools.permutations(pair))


def test_first_strategies_are_uniform_ones_then_the_budgets_then_random_ones():
    X = REAL.first(40, torch.Generator().manual_seed(0), 0.75)
    assert [set(REAL.to_units(row).values()) for row in X[:5]] == [{name} for name in WIDTHS]
    assert len({REAL.key(row) for row in X}) > 30
    assert bool((REAL.sparsity(X[5:]) <= 0.75 + 1e-3).all())


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"lm_head": "W4A16"}, "must be what a server packs"),
        ({SMALL.units[0]: "W2A16"}, "must be one of dense, W8A16:g64.*got 'W2A16'"),
    ],
)
def test_units_and_schemes_that_are_not_there_are_refused(units, message):
    with pytest.raises(StrategyError, match=message):
        SMALL.from_units(units)


@pytest.mark.parametrize("row", [(), (("dense", 16.0, 0),), (("W4A16", 4.1, 0), ("dense", 16.0, 0))])
def test_choices_that_are_none_are_refused(row):
    with pytest.raises(StrategyError, match=r"^choices\['mlp'\] must be two or more ways to store it"):
        PrecisionSpace(("mlp",), (64,), (row,))


def additive(space, costs):
    """The logarithm of the sum of units' own costs."""
    return lambda x: costs.gather(1, space.places(x).T).T.sum(-1).log()


def random_costs(space, seed):
    generator = torch.Generator().manual_seed(seed)
    own = torch.rand(len(space.units), 1, generator=generator, dtype=torch.float64).exp().pow(3)
    bits = torch.tensor([bits for _, bits, _ in space.choices[0]], dtype=torch.float64)
    return own * (4.0**-bits - 4.0**-16)[None] + 1e-9


@pytest.mark.parametrize("bits", [3.5, 4.25, 5.0, 7.0])
def test_refining_finds_the_cheapest_strategy_of_units_that_add_up(bits):
    costs, budget = random_costs(REAL, 0), 1.0 - bits / 16.0
    value = additive(REAL, costs)
    [best] = value(REAL.cheapest(costs, [budget])).exp().tolist()
    start = REAL.project(torch.zeros(1, 120, dtype=torch.float64), budget)
    [found] = value(REAL.refined(value, start, budget)).exp().tolist()
    [spent] = value(REAL.spent(REAL.costs_at(value, torch.zeros(120), REAL.longest), [budget])).exp().tolist()
    assert best <= found <= 1.03 * best
    assert best <= spent <= 1.03 * best
    assert value(start).exp().item() > 1.1 * best


def test_the_cheapest_strategy_is_that_of_brute_force():
    costs = random_costs(SMALL, 1)
    keys = itertools.product(*(range(len(row)) for row in SMALL.choices))
    every = torch.stack([SMALL.parse(",".join(map(str, key))) for key in keys])
    worth, saved = additive(SMALL, costs)(every), SMALL.sparsity(every)
    for bits in (3.4, 4.0, 5.1, 9.0):
        budget = 1.0 - bits / 16.0
        [found] = SMALL.cheapest(costs, [budget])
        assert additive(SMALL, costs)(found[None]).item() == pytest.approx(worth[saved >= budget - 1e-12].min().item())


def test_strategies_are_spent_alike_in_any_company():
    costs = random_costs(REAL, 2)
    budgets = [1.0 - bits / 16.0 for bits in (3.3, 3.61, 4.0, 4.4, 5.55, 9.0)]
    together = REAL.spent(costs, budgets)
    assert all(torch.equal(REAL.spent(costs, [budget])[0], row) for budget, row in zip(budgets, together, strict=True))
    used = bits_of(REAL, together)
    allowed = torch.tensor([16.0 * (1.0 - budget) for budget in budgets]) * sum(REAL.unit_params)
    assert bool((used <= allowed + 1e-3).all())


def test_schemes_whose_groups_differ_from_unit_to_unit_are_uniform_by_their_bits():
    space = PrecisionSpace(
        ("a.0.q", "a.0.down"), (64, 128), (choices(64, WIDTHS), choices(128, ("W4A16", "W3A16", "W8A8")))
    )
    assert {label: list(space.to_units(row).values()) for label, row in space.uniform().items()} == {
        "W4A16": ["W4A16:g64", "W4A16"],
        "W3A16": ["W3A16:g64", "W3A16"],
    }


def test_a_unit_that_lacks_a_scheme_has_its_nearest_and_schemes_of_few_units_are_none_of_all():
    rows = [choices(64, own) for own in (("W3A16:g64",), ("W8A16:g64",), *[("W5A16:g64", "W4A16:g64")] * 3)]
    space = PrecisionSpace(tuple("abcdef"), (64,) * 6, (*rows, choices(64, ("W4A16:g64", "W2A16:g64"))))
    assert {label: list(space.to_units(row).values()) for label, row in space.uniform().items()} == {
        "W4A16:g64": ["W3A16:g64", "W8A16:g64", *["W4A16:g64"] * 4],
    }
    assert list(REAL.uniform()) == list(WIDTHS)
