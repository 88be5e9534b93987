"""Attentions and MLPs, three of the one weighing as much as one of the other, against brute force."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unicuco_plugin.errors import RequestError, StrategyError
from unicuco_plugin.spaces.sublayer import SublayerSpace

BLOCKS = 4
NAMES = tuple(f"model.layers.{i}.{half}" for i in range(BLOCKS) for half in ("self_attn", "mlp"))
SPACE = SublayerSpace(NAMES, (10, 30) * BLOCKS)
# Sizes without a common measure: most sums occur once.
ODD = SublayerSpace(NAMES, (10, 27) * BLOCKS)
# Every set but none and all.
SETS = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2 * BLOCKS))[1:-1], dtype=torch.float64)
both = pytest.mark.parametrize("space", [SPACE, ODD], ids=["multiple", "odd"])
scores = arrays("float64", (2, 2 * BLOCKS), elements=st.floats(-6, 6)).map(torch.from_numpy)
shares = st.floats(0.01, 0.93)


@both
@given(z=scores, share=shares)
def test_a_projection_is_the_best_set_of_those_with_the_fewest_parameters_that_reach_the_share(space, z, share):
    found = space.project(z, share)
    totals = SETS @ space.params
    least = totals[totals >= share * space.params.sum() - 1e-9].min()
    assert (found @ space.params).tolist() == [least] * 2
    assert space.reaching(share) == pytest.approx((least / space.params.sum()).item(), abs=1e-15)
    best = (SETS[totals == least] @ z.T).max(0).values
    torch.testing.assert_close((found * z).sum(-1), best)


@both
def test_budgets_rise_and_are_shares_that_sets_have(space):
    totals = set((SETS @ space.params).tolist())
    whole = space.params.sum().item()
    assert list(space.budgets) == sorted(set(space.budgets))
    assert all(round(budget * whole) in totals for budget in space.budgets)
    assert [space.reaching(budget) for budget in space.budgets] == list(space.budgets)
    assert 1 <= len(space.budgets) < len(space.units)


def test_one_sublayer_has_to_stay():
    message = r"^sparsity must be at most 0\.9375 for sublayer: one of 8 sub-layers has to stay, got 0\.95$"
    with pytest.raises(RequestError, match=message):
        SPACE.reaching(0.95)


@both
@given(z=scores)
def test_relaxed_strategies_are_sets_with_the_sigmoids_gradient(space, z):
    z.requires_grad_(True)
    x = space.relax(z)
    assert set(x.detach().round(decimals=9).unique().tolist()) <= {0.0, 1.0}
    assert bool(((x.sum(-1) > 0.5) & (x.sum(-1) < 2 * BLOCKS - 0.5)).all())
    x.sum().backward()
    torch.testing.assert_close(z.grad, (z.sigmoid() * (1 - z.sigmoid())).detach())


@both
@pytest.mark.parametrize("share", [0.2, 0.5, 0.7])
def test_random_sets_and_their_neighbours_are_at_the_budget(space, share):
    x = space.random(20, share, torch.Generator().manual_seed(0))
    assert bool(space.near(x, share).all())
    moves = space.neighbours(x)
    assert bool(space.near(moves.flatten(0, 1), share).all())
    assert torch.equal(space.project(space.scores(x), space.reaching(share)), x)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_random_sets_take_whole_blocks_in_every_second_row(blocks):
    x = SPACE.random(40, blocks / BLOCKS, torch.Generator().manual_seed(0)).view(40, BLOCKS, 2)
    assert bool((x[::2, :, 0] == x[::2, :, 1]).all())
    assert bool((x[1::2, :, 0] != x[1::2, :, 1]).any())
    assert len(x[::2].unique(dim=0)) > 2


def test_moves_are_all_swaps_of_one_size_and_trades_for_the_nearest_three():
    x = SPACE.from_units({"model.layers.1.mlp": 1.0, "model.layers.0.self_attn": 1.0})[None]
    found = {SPACE.key(row) for row in SPACE.neighbours(x)[0]}
    swaps = {"0,1", "0,5", "0,7", "2,3", "3,4", "3,6"}
    assert found == swaps | {"0,2,4,6"}
    y = SPACE.from_units({"model.layers.1.mlp": 1.0})[None]
    assert {SPACE.key(row) for row in SPACE.neighbours(y)[0]} == {"1", "5", "7", "0,2,4"}


@both
def test_rows_of_unlike_compositions_have_the_moves_that_they_have_alone(space):
    x = torch.cat([space.random(4, share, torch.Generator().manual_seed(1)) for share in space.budgets])
    moves = space.neighbours(x)
    for row, found in zip(x, moves, strict=True):
        alone = space.neighbours(row[None])[0]
        assert torch.equal(found[: len(alone)], alone)
        assert torch.equal(found[len(alone) :], row.expand(len(found) - len(alone), -1))


def test_first_strategies_are_distinct_singles_and_sets():
    some = SPACE.first(10, torch.Generator().manual_seed(0), 0.6)
    assert len({SPACE.key(row) for row in some}) == len(some) == 10
    assert [int(row.sum()) for row in some[:5]] == [1] * 5
    every = SPACE.first(40, torch.Generator().manual_seed(0))
    assert torch.equal(every[:8], torch.eye(8, dtype=torch.float64))


def test_units_and_keys_go_there_and_back():
    x = SPACE.parse("0,3")
    assert SPACE.to_units(x) == {"model.layers.0.self_attn": 1.0, "model.layers.1.mlp": 1.0}
    assert torch.equal(SPACE.from_units(SPACE.to_units(x)), x)
    assert SPACE.key(x) == "0,3"
    with pytest.raises(StrategyError, match=r"^units\['model.layers.0'\] must be a known sub-layer with share 0 or 1"):
        SPACE.from_units({"model.layers.0": 1.0})
