"""Blocks of random unequal sizes, some of them needed, against enumeration."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from whole_sets import groups_of, sets_of

from unicuco_plugin.errors import RequestError, StrategyError
from unicuco_plugin.spaces.depth import DepthSpace, UnevenBlocks, make_depth
from unicuco_plugin.spaces.sublayer import SublayerSpace

SIZES = st.one_of(
    st.lists(st.sampled_from([6, 9, 12]), min_size=3, max_size=7), st.lists(st.integers(1, 50), min_size=3, max_size=7)
).map(tuple)
SHARE = st.floats(1e-6, 1.0, exclude_max=True)
# Two kinds of mixer, two of MLPs: every half of four sizes, as in LFM2-MoE.
HALVES = SublayerSpace(
    tuple(f"model.layers.{i}.{half}" for i in range(4) for half in ("mixer", "mlp")),
    (4, 6, 4, 12, 5, 6, 5, 12),
    ((4, 5),),
)


@st.composite
def spaces(draw):
    sizes = draw(SIZES)
    needed = draw(groups_of(len(sizes)))
    return UnevenBlocks(tuple(f"model.layers.{i}" for i in range(len(sizes))), sizes, needed)


def allowed(space, x):
    known = {tuple(row) for row in sets_of(len(space.units), space.needed).tolist()}
    return all(tuple(row) in known for row in x.flatten(0, -2).tolist())


def least(space, share):
    """The fewest parameters of any set that reach a share; None where none does."""
    totals = (sets_of(len(space.units), space.needed) @ space.params).tolist()
    return min((total for total in totals if total >= share * space.params.sum().item() - 1e-9), default=None)


@given(spaces(), SHARE, st.integers(0, 2**30))
def test_a_request_comes_down_to_the_least_that_reaches_it_and_projections_meet_it(space, share, seed):
    wanted = least(space, share)
    scores = torch.randn(3, len(space.units), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if wanted is None:
        with pytest.raises(RequestError, match=r"^sparsity must be at most [0-9.]+ for depth: one of \d+ blocks"):
            space.reaching(share)
        return
    assert space.reaching(share) * sum(space.unit_params) == pytest.approx(wanted, abs=1e-6)
    x = space.project(scores, share)
    assert (x @ space.params).tolist() == [wanted] * 3
    assert allowed(space, x)


@pytest.mark.slow
@given(spaces(), st.integers(0, 2**30))
def test_first_strategies_random_sets_and_moves_are_allowed_and_moves_keep_the_budget(space, seed):
    generator = torch.Generator().manual_seed(seed)
    first = space.first(12, generator)
    assert len({space.key(row) for row in first}) == len(first)
    assert allowed(space, first)
    moves = space.neighbours(first)
    assert allowed(space, moves)
    assert torch.equal(moves @ space.params, (first @ space.params)[:, None].expand(-1, moves.shape[1]))
    for budget in space.budgets:
        assert bool(space.near(space.random(4, budget, generator), budget).all())


@given(spaces())
def test_swaps_of_equal_blocks_are_all_there_is_one_exchange_away(space):
    for x in sets_of(len(space.units), space.needed)[::3]:
        found = {space.key(row) for row in space.neighbours(x[None])[0]} - {space.key(x)}
        n = space.unit_params
        swaps = set()
        for goes, comes in itertools.permutations(range(len(n)), 2):
            if x[goes] == 0 and x[comes] == 1 and n[goes] == n[comes]:
                y = x.clone()
                y[goes], y[comes] = 1.0, 0.0
                swaps |= {space.key(y)} if allowed(space, y[None]) else set()
        assert swaps <= found


@given(spaces(), st.integers(0, 2**30))
def test_relaxed_strategies_are_allowed(space, seed):
    logits = 2 * torch.randn(6, len(space.units), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert allowed(space, space.relax(logits).round(decimals=9))


@given(spaces())
def test_every_strategy_is_the_projection_of_its_own_scores(space):
    rows = sets_of(len(space.units), space.needed)
    for x in rows[::5]:
        assert torch.equal(space.project(space.scores(x[None]), space.sparsity(x[None]).item())[0], x)


def test_halves_of_a_needed_block_may_go_one_by_one_and_not_together():
    generator = torch.Generator().manual_seed(0)
    rows = torch.cat([HALVES.random(20, budget, generator) for budget in HALVES.budgets])
    assert bool((rows[:, 4:6].sum(-1) < 2).all())
    assert bool((rows[:, 4:6].sum(-1) == 1).any())


@given(spaces(), SHARE, st.integers(0, 2**30))
def test_a_ranking_keeps_what_is_needed_and_takes_no_block_too_many(space, share, seed):
    sizes, generator = space.unit_params, torch.Generator().manual_seed(seed)
    ranking = DepthSpace(space.unit_names, sizes, needed=space.needed)
    scores = torch.randn(3, len(sizes), generator=generator, dtype=torch.float64)
    groups = space.needed or (range(len(sizes)),)
    most = 1 - sum(min(sizes[i] for i in group) for group in groups) / sum(sizes)
    if share > most + 2e-9:
        with pytest.raises(RequestError, match=r"to stay, got"):
            ranking.project(scores, share)
    elif share < most - 2e-9:
        x = ranking.project(scores, share)
        assert allowed(space, x)
        assert bool((ranking.sparsity(x) >= share - 1e-9).all())
        for row, z in zip(x.bool(), scores, strict=True):
            lowest = z.masked_fill(~row, torch.inf).argmin()
            assert (ranking.sparsity(row.double()[None]) - ranking.params[lowest] / sum(sizes)).item() < share
            # What was passed over for a lower score is the one of its group that stays, and no more of them.
            passed = [i for i in range(len(sizes)) if not row[i] and z[i] > z[lowest]]
            assert all(sum(i in group for i in passed) <= 1 for group in groups)


def test_blocks_of_one_size_keep_the_space_of_their_number():
    names = ("model.layers.0", "model.layers.1", "model.layers.2")
    assert make_depth(names, (7, 7, 7)) == DepthSpace(names, (7, 7, 7))
    assert make_depth(names, (7, 7, 8)) == UnevenBlocks(names, (7, 7, 8))
    assert make_depth(names, (7, 7, 7), ((1,),)) == UnevenBlocks(names, (7, 7, 7), ((1,),))


@pytest.mark.parametrize("needed", [((2,),), ((),), ((0, 1), (1,))], ids=str)
def test_groups_that_are_none_are_refused(needed):
    with pytest.raises(StrategyError, match=r"^needed must be groups of indices in \[0, 2\), got"):
        UnevenBlocks(("model.layers.0", "model.layers.1"), (1, 2), needed)
