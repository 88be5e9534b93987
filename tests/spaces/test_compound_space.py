"""Schemes and whole blocks: budgets, couplings and the exact knapsack against brute force, and round trips."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unicuco_plugin.errors import RequestError, StrategyError
from unicuco_plugin.schemes import DENSE, REMOVED, parse_scheme
from unicuco_plugin.spaces.compound import CompoundSpace
from unicuco_plugin.spaces.precision import PrecisionSpace

KINDS = ("self_attn.q_proj+k_proj+v_proj", "self_attn.o_proj", "mlp.gate_proj+up_proj", "mlp.down_proj")
WIDTHS = ("W8A16:g64", "W6A16:g64", "W5A16:g64", "W4A16:g64", "W3A16:g64", "W2A16:g64")
GONE = (REMOVED, 0.0, 0)


def choices(names, *more):
    found = [(DENSE, 16.0, 0), *((name, parse_scheme(name).bits_per_weight(64), 0) for name in names), *more]
    return tuple(sorted(found, key=lambda choice: -choice[1]))


def make(sizes, per_block=4, names=WIDTHS, stay=(), needed=()):
    units = tuple(f"model.layers.{i // per_block}.{KINDS[i % per_block]}" for i in range(len(sizes)))
    rows = [choices(names, *(() if i // per_block in stay else (GONE,))) for i in range(len(sizes))]
    return CompoundSpace(units, tuple(sizes), tuple(rows), needed=needed)


SIZES = (552960, 331776, 1769472, 884736)
REAL = make(SIZES * 30)
PART = make(SIZES * 8)
# Three blocks of two units of several sizes, the first one not to leave.
SMALL = make((640, 1024, 320, 64 * 21, 640, 640), 2, WIDTHS[3:], stay=(0,))
# All may leave, and generation needs the second or the third.
HYBRID = make((640, 1024, 64 * 37, 64 * 21, 640, 640), 2, WIDTHS[3:], needed=((2, 3, 4, 5),))
every = pytest.mark.parametrize("space", [SMALL, HYBRID], ids=["small", "hybrid"])
few = settings(max_examples=15)
scores = arrays("float64", (2, 6), elements=st.floats(-6, 6)).map(torch.from_numpy)


def all_of(space):
    """Every strategy that there is, by definition, and the keys of all."""
    blocks = [unit.split(".")[2] for unit in space.units]
    needed = space.needed or (() if any(row[-1][0] != REMOVED for row in space.choices) else (range(len(blocks)),))
    found = []
    for k in itertools.product(*(range(len(row)) for row in space.choices)):
        gone = [row[place][0] == REMOVED for row, place in zip(space.choices, k, strict=True)]
        whole = all(len({g for g, b in zip(gone, blocks, strict=True) if b == block}) == 1 for block in blocks)
        if whole and not any(all(gone[unit] for unit in group) for group in needed):
            found.append(k)
    shares = [[1.0 - row[place][1] / 16.0 for row, place in zip(space.choices, k, strict=True)] for k in found]
    return torch.tensor(shares, dtype=torch.float64), {",".join(map(str, k)) for k in found}


EVERY = {id(space): all_of(space) for space in (SMALL, HYBRID)}
ALL = {space: strategies for space, (strategies, _) in EVERY.items()}
KEYS = {space: keys for space, (_, keys) in EVERY.items()}


def keys_of(space, X):
    return {space.key(row) for row in X}


def bits_of(space, x):
    weights = torch.tensor(space.unit_params, dtype=torch.float64)
    return ((1.0 - x) * 16.0) @ weights


def check_whole(space, x):
    """Never half a block, and what is needed stays."""
    for row in x:
        assert space.key(space.parse(space.key(row))) == space.key(row)


@every
@few
@given(z=scores, share=st.floats(0.0, 1.0))
def test_a_budget_is_met_by_whole_blocks_and_never_exceeded(space, z, share):
    budget = share * space.most
    x = space.project(z, budget)
    allowed = (1.0 - budget) * 16.0 * sum(space.unit_params)
    assert bool((bits_of(space, x) <= allowed + 1e-3).all())
    assert keys_of(space, x) <= KEYS[id(space)]


@every
def test_the_floor_is_the_least_that_any_strategy_has(space):
    least = bits_of(space, ALL[id(space)]).min().item()
    assert bits_of(space, torch.ones(6, dtype=torch.float64)) == 0.0
    assert (1.0 - space.most) * 16.0 * sum(space.unit_params) == pytest.approx(least)
    x = space.project(torch.zeros(1, 6, dtype=torch.float64), space.most)
    assert bits_of(space, x).item() == pytest.approx(least)
    with pytest.raises(RequestError, match=r"^bits must be at least .*, the narrowest schemes of the blocks that have"):
        space.reaching(space.most + 1e-6)


@few
@given(z=arrays("float64", (1, 120), elements=st.floats(-4, 4)).map(torch.from_numpy), bits=st.floats(0.1, 8.0))
def test_in_a_whole_model_budgets_are_met_within_the_smallest_step(z, bits):
    x = REAL.project(z, 1.0 - bits / 16.0)
    missed = bits * sum(REAL.unit_params) - bits_of(REAL, x).item()
    assert -1e-3 <= missed < min(REAL.unit_params)
    check_whole(REAL, x)


@every
def test_names_and_keys_come_back_and_scores_lead_back(space):
    for x in ALL[id(space)][1::397]:
        torch.testing.assert_close(space.from_units(space.to_units(x)), x, rtol=0, atol=1e-12)
        assert space.key(space.parse(space.key(x.round(decimals=6)))) == space.key(x)
        back = space.project(space.scores(x)[None], space.sparsity(x[None]).item())[0]
        assert bool((bits_of(space, back) <= bits_of(space, x) + 1e-3).all())
        assert torch.equal(back >= 1.0, x >= 1.0)


def test_blocks_that_are_gone_are_named_as_in_depth_beside_the_schemes_of_others():
    x = SMALL.from_units({"model.layers.1": 1.0, SMALL.units[0]: "W4A16:g64"})
    assert SMALL.to_units(x) == {"model.layers.1": 1.0, SMALL.units[0]: "W4A16:g64"}
    assert x.tolist() == [1.0 - 4.25 / 16, 0.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"model.layers.0": 1.0}, r"^units\['model.layers.0'\] must be a block that may leave, with share 1, got 1.0$"),
        ({"model.layers.1": 0.5}, "must be a block that may leave, with share 1, got 0.5"),
        ({"model.layers.1": 1.0, SMALL.units[2]: "W4A16:g64"}, "must have no scheme where its block is gone"),
        ({SMALL.units[2]: REMOVED}, "must name blocks that are gone, not units with 'removed'"),
        ({SMALL.units[2]: REMOVED, SMALL.units[3]: REMOVED}, "must name blocks that are gone, not units"),
        ({"model.layers.9": 1.0}, "must be a block that may leave"),
    ],
)
def test_units_that_are_none_are_refused(units, message):
    with pytest.raises(StrategyError, match=message):
        SMALL.from_units(units)


@pytest.mark.parametrize("key", ["0,0,4,0,0,0", "0,0,4,4,4,3"])
def test_a_key_with_half_a_block_is_none(key):
    with pytest.raises(ValueError, match="whole blocks"):
        SMALL.parse(key)
    with pytest.raises(ValueError, match="whole blocks"):
        HYBRID.parse("0,0,4,4,4,4")


def test_blocks_that_may_go_in_part_and_spaces_in_which_none_may_are_refused():
    units, rows = SMALL.unit_names, SMALL.choices
    with pytest.raises(StrategyError, match="for all of its units"):
        CompoundSpace(units, SMALL.unit_params, (*rows[:3], rows[0], *rows[4:]))
    with pytest.raises(StrategyError, match="for the units of one block or more"):
        CompoundSpace(units, SMALL.unit_params, (rows[0],) * 6)


@few
@given(z=scores)
def test_relaxed_strategies_are_feasible_and_have_the_sigmoids_gradient(z):
    z.requires_grad_(True)
    x = SMALL.relax(z)
    assert keys_of(SMALL, x.detach()) <= KEYS[id(SMALL)]
    (gradient,) = torch.autograd.grad(x.sum(), z)
    torch.testing.assert_close(gradient, (z.sigmoid() * (1 - z.sigmoid())).detach())


@every
def test_neighbours_are_strategies_at_no_more_bits(space):
    for x in ALL[id(space)][3::397]:
        moves = space.neighbours(x[None])[0]
        assert keys_of(space, moves) <= KEYS[id(space)]
        assert bool((bits_of(space, moves) <= bits_of(space, x) + 1e-3).all())


@pytest.mark.slow
def test_in_a_whole_model_moves_let_blocks_go_and_come_back():
    x = REAL.project(torch.zeros(1, 120, dtype=torch.float64), 1.0 - 3.0 / 16.0)
    moves = REAL.neighbours(x)[0]
    assert {len([u for u, own in REAL.to_units(row).items() if own == 1.0]) for row in moves} == {0, 1}
    x = REAL.project(torch.zeros(1, 120, dtype=torch.float64), 1.0 - 1.5 / 16.0)
    count = len([u for u, own in REAL.to_units(x[0]).items() if own == 1.0])
    moves = REAL.neighbours(x)[0]
    gone = {len([u for u, own in REAL.to_units(row).items() if own == 1.0]) for row in moves}
    assert count > 5 and {count, count + 1} <= gone <= {count - 1, count, count + 1}


@pytest.mark.slow
def test_first_and_random_strategies_are_feasible_and_some_drop_blocks():
    generator = torch.Generator().manual_seed(0)
    for bits in (0.3, 2.0, 4.25, 9.0):
        X = REAL.random(8, 1.0 - bits / 16.0, generator)
        check_whole(REAL, X)
        assert bool((bits_of(REAL, X) <= bits * sum(REAL.unit_params) + 1e-3).all())
        assert len({int((row >= 1.0).sum()) for row in X}) > 1 or bits < 1.0
    X = REAL.first(40, generator, 0.9)
    check_whole(REAL, X)
    assert [set(REAL.to_units(row).values()) for row in X[:6]] == [{name} for name in WIDTHS]


def random_costs(space, seed):
    """Costs of every choice, of being gone given to the first unit of each block."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.rand(len(space.units), 1, generator=generator, dtype=torch.float64).mul(3.0).exp()
    costs = torch.full((len(space.units), max(map(len, space.choices))), torch.inf, dtype=torch.float64)
    seen = set()
    for unit, row in enumerate(space.choices):
        for place, (name, bits, _) in enumerate(row):
            if name == REMOVED:
                block = space.units[unit].split(".")[2]
                drawn = 0.02 + 0.8 * torch.rand(1, generator=generator, dtype=torch.float64).item()
                costs[unit, place] = 0.0 if block in seen else drawn
                seen.add(block)
            else:
                costs[unit, place] = own[unit, 0] * (4.0**-bits - 4.0**-16) + 1e-9
    return costs


def additive(space, costs):
    return lambda x: costs.gather(1, space.places(x).T).T.sum(-1).log()


@every
@pytest.mark.parametrize("seed", range(4))
def test_the_cheapest_strategy_is_that_of_brute_force(space, seed):
    costs, every_one = random_costs(space, seed), ALL[id(space)]
    worth, saved = additive(space, costs)(every_one), space.sparsity(every_one)
    low = 16.0 * (1.0 - space.most)
    for bits in (low + 1e-6, low + 0.3, 2.2, 3.4, 4.0, 9.0):
        budget = 1.0 - bits / 16.0
        [found] = space.cheapest(costs, [budget])
        assert space.key(found) in KEYS[id(space)]
        assert space.sparsity(found) >= budget - 1e-12
        assert additive(space, costs)(found[None]).item() == pytest.approx(worth[saved >= budget - 1e-12].min().item())


def test_without_blocks_that_are_worth_it_the_cheapest_are_those_of_bits_alone():
    costs = random_costs(PART, 0)
    costs[:, -1] = torch.tensor([1e6, 0.0, 0.0, 0.0] * 8)
    stored = PrecisionSpace(PART.unit_names, PART.unit_params, tuple(row[:-1] for row in PART.choices))
    budgets = [1.0 - bits / 16.0 for bits in (2.5, 4.25)]
    torch.testing.assert_close(PART.cheapest(costs, budgets), stored.cheapest(costs[:, :-1], budgets))


@pytest.mark.parametrize("bits", [0.5, 1.0, 1.75, 2.5, 3.5, 5.0])
def test_refining_finds_nearly_the_cheapest_strategy_of_units_that_add_up(bits):
    costs, budget = random_costs(PART, 0), 1.0 - bits / 16.0
    value = additive(PART, costs)
    [best] = value(PART.cheapest(costs, [budget])).exp().tolist()
    start = PART.project(torch.zeros(1, 32, dtype=torch.float64), budget)
    dense = torch.zeros(32, dtype=torch.float64)
    [spent] = value(PART.spent(PART.costs_at(value, dense, PART.longest), [budget])).exp().tolist()
    [found] = value(PART.refined(value, start, budget)).exp().tolist()
    assert best <= spent * (1 + 1e-9) and spent <= 1.03 * best
    assert best <= found * (1 + 1e-9) and found <= 1.05 * best


def test_costs_add_up_to_what_changes_cost_where_blocks_are_gone():
    """Exactly so where units add up: of a block that comes back, of one that goes, of one that changes."""
    costs = random_costs(SMALL, 2)
    value = additive(SMALL, costs)
    x = SMALL.from_units({"model.layers.1": 1.0, SMALL.units[4]: "W4A16:g64", SMALL.units[0]: "W3A16:g64"})
    found = SMALL.costs_at(value, x, SMALL.longest)
    here = value(x[None]).exp().item()
    for row in ALL[id(SMALL)][1::11]:
        there = value(row[None]).exp().item()
        assert found.gather(1, SMALL.places(row)[:, None]).sum().item() == pytest.approx(there - here, abs=1e-9)


def test_strategies_are_spent_alike_in_any_company():
    costs = random_costs(REAL, 2)
    budgets = [1.0 - bits / 16.0 for bits in (0.6, 1.61, 2.0, 3.4, 5.55)]
    together = REAL.spent(costs, budgets)
    check_whole(REAL, together)
    for budget, row in zip(budgets, together, strict=True):
        assert torch.equal(REAL.spent(costs, [budget])[0], row)
        assert math.ceil(budget * 1e9) <= REAL.sparsity(row).item() * 1e9 + 1
