import itertools
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.errors import RequestError, StrategyError
from unicuco_plugin.spaces.depth import DepthSpace

EQUAL = st.integers(2, 9).map(lambda d: (7,) * d)
SIZES = st.one_of(EQUAL, st.lists(st.integers(1, 50), min_size=2, max_size=9).map(tuple))
SHARE = st.floats(1e-6, 1.0, exclude_max=True)


def space_of(sizes):
    return DepthSpace(tuple(f"model.layers.{i}" for i in range(len(sizes))), tuple(sizes))


@st.composite
def scored(draw, sizes=SIZES):
    """A space and three rows of scores, ties included."""
    space = space_of(draw(sizes))
    score = st.one_of(st.sampled_from([-1.0, 0.0, 1.0]), st.floats(-5, 5))
    rows = draw(st.lists(st.lists(score, min_size=len(space.units), max_size=len(space.units)), min_size=3, max_size=3))
    return space, torch.tensor(rows, dtype=torch.float64)


def bits(d):
    return st.lists(st.booleans(), min_size=d, max_size=d).map(lambda row: torch.tensor(row, dtype=torch.float64))


@st.composite
def strategies(draw):
    space = space_of(draw(SIZES))
    return space, draw(bits(len(space.units)))


@given(case=scored(), share=SHARE)
def test_a_projection_reaches_the_share_and_always_leaves_a_block(case, share):
    space, scores = case
    if share > space.budgets[-1]:
        return
    x = space.project(scores, share)
    assert x.unique().tolist() in ([0.0, 1.0], [1.0])
    assert (space.sparsity(x) >= share - 1e-9).all()
    assert (x.sum(-1) <= len(space.units) - 1).all()


@given(case=scored(), share=SHARE)
def test_a_projection_is_the_shortest_run_of_the_ranking_that_reaches_the_share(case, share):
    space, scores = case
    for row, x in zip(scores, space.project(scores, share) if share <= space.budgets[-1] else [], strict=False):
        ranking = sorted(range(len(row)), key=lambda i: -row[i].item())
        total = sum(space.unit_params)
        runs = [ranking[:k] for k in range(1, len(ranking))]
        enough = [run for run in runs if sum(space.unit_params[i] for i in run) / total >= share - 1e-9]
        if enough:  # otherwise the ranking's last block alone is too large to be the one that stays
            assert space.to_units(x).keys() == {space.units[i] for i in enough[0]}


@given(case=scored(EQUAL), share=SHARE)
def test_blocks_of_one_size_are_the_fewest_that_reach_the_share(case, share):
    space, scores = case
    d = len(space.units)
    if share > space.budgets[-1]:
        return
    fewest = next(k for k in range(1, d) if k / d >= share - 1e-9)
    assert space.project(scores, share).sum(-1).tolist() == [fewest] * 3


@given(case=scored(EQUAL))
def test_every_budget_projects_onto_itself(case):
    space, scores = case
    assert len(space.budgets) == len(space.units) - 1
    for budget in space.budgets:
        torch.testing.assert_close(space.sparsity(space.project(scores, budget)), torch.full((3,), budget).double())


@given(sizes=SIZES)
def test_budgets_are_the_largest_shares_by_brute_force(sizes):
    space = space_of(sizes)
    for k, budget in enumerate(space.budgets, start=1):
        largest = max(sum(chosen) for chosen in itertools.combinations(sizes, k)) / sum(sizes)
        assert budget == pytest.approx(largest, abs=1e-12)
    assert list(space.budgets) == sorted(space.budgets)
    assert all(0.0 < budget < 1.0 for budget in space.budgets)


@pytest.mark.parametrize("sizes", [(5,) * 30, (5,) * 7, (3, 1, 4, 1, 5)], ids=str)
def test_a_share_that_takes_every_block_is_refused_with_one_that_does_not(sizes):
    space = space_of(sizes)
    scores = torch.zeros(1, len(sizes), dtype=torch.float64)
    with pytest.raises(RequestError) as caught:
        space.project(scores, 0.99)
    found = re.fullmatch(
        rf"sparsity must be at most ([0-9.]+) for depth: one of {len(sizes)} blocks has to stay, got 0\.99",
        str(caught.value),
    )
    assert space.sparsity(space.project(scores, float(found[1]))).item() >= float(found[1])


@given(case=scored())
def test_relaxation_is_binary_and_takes_as_many_as_the_sigmoids_sum_to(case):
    space, logits = case
    x = space.relax(logits).round(decimals=6)
    d = len(space.units)
    assert set(x.unique().tolist()) <= {0.0, 1.0}
    expected = logits.sigmoid().sum(-1).round().clamp(1, d - 1)
    assert torch.equal(x.sum(-1), expected)
    for row, taken in zip(logits, x.bool(), strict=True):
        assert row[taken].min() >= row[~taken].max()


@given(case=scored())
def test_the_gradient_of_the_relaxation_is_that_of_the_sigmoid(case):
    space, logits = case
    logits = logits.requires_grad_()
    weights = torch.arange(1.0, logits.numel() + 1, dtype=torch.float64).view_as(logits)
    (through,) = torch.autograd.grad((weights * space.relax(logits)).sum(), logits)
    (sigmoid,) = torch.autograd.grad((weights * logits.sigmoid()).sum(), logits)
    torch.testing.assert_close(through, sigmoid)


@given(case=strategies())
def test_keys_and_unit_names_return_the_strategy(case):
    space, x = case
    assert torch.equal(space.parse(space.key(x)), x)
    assert torch.equal(space.from_units(space.to_units(x)), x)


@given(case=strategies(), data=st.data())
def test_keys_are_equal_only_for_equal_strategies(case, data):
    space, x = case
    other = data.draw(bits(len(space.units)))
    assert (space.key(x) == space.key(other)) is torch.equal(x, other)


def test_a_key_is_short_and_readable():
    space = space_of((1,) * 20)
    assert space.key(space.parse("3,14,15")) == "3,14,15"
    assert space.to_units(space.parse("3,14")) == {"model.layers.3": 1.0, "model.layers.14": 1.0}


@given(case=strategies(), rows=st.integers(1, 3))
def test_neighbours_are_all_swaps_once_each(case, rows):
    space, x = case
    d, k = len(x), int(x.sum())
    generator = torch.Generator().manual_seed(0)
    X = torch.stack([x, *(x[torch.randperm(d, generator=generator)] for _ in range(rows - 1))])
    moves = space.neighbours(X)
    assert moves.shape == (rows, k * (d - k), d)
    for row, found in zip(X, moves, strict=True):
        gone, kept = row.nonzero()[:, 0].tolist(), (1 - row).nonzero()[:, 0].tolist()
        swaps = {",".join(map(str, sorted({*gone, new} - {old}))) for old in gone for new in kept}
        assert {space.key(move) for move in found} == swaps
        assert len(swaps) == len(found)


@given(case=strategies())
def test_sparsity_is_the_share_of_block_parameters(case):
    space, x = case
    expected = sum(n for n, gone in zip(space.unit_params, x.tolist(), strict=True) if gone) / sum(space.unit_params)
    assert space.sparsity(x[None]).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.slow
@given(sizes=SIZES, count=st.integers(2, 40), seed=st.integers(0, 5))
def test_first_strategies_are_distinct_singles_before_random_sets(sizes, count, seed):
    space = space_of(sizes)
    d = len(sizes)
    first = space.first(count, torch.Generator().manual_seed(seed))
    keys = [space.key(row) for row in first]
    assert keys[: min(d, count)] == [str(i) for i in range(min(d, count))]
    assert len(keys) == len(set(keys)) <= count
    assert all(1 <= row.sum() <= d - 1 for row in first)
    assert torch.equal(first, space.first(count, torch.Generator().manual_seed(seed)))


def test_four_in_five_random_first_strategies_stay_within_what_is_asked():
    space = space_of((3,) * 20)
    sizes = space.first(120, torch.Generator().manual_seed(0), 0.5)[20:].sum(1)
    assert 0.7 < (sizes <= 10).double().mean() < 0.97
    assert sizes.max() > 15


@given(share=st.floats(0.01, 0.85))
def test_random_strategies_meet_the_budget_and_their_generator_decides_them(share):
    space = space_of((3,) * 7)
    draws = [space.random(20, share, torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*draws)
    assert (space.sparsity(draws[0]) >= share - 1e-9).all()
    assert len(set(map(space.key, draws[0]))) > 1


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"model.layers.0": 0.5}, r"units['model.layers.0'] must be a known block with share 0 or 1, got 0.5"),
        ({"model.layers.9": 1.0}, r"units['model.layers.9'] must be a known block with share 0 or 1, got 1.0"),
    ],
)
def test_units_of_no_depth_strategy_are_refused(units, message):
    with pytest.raises(StrategyError, match=f"^{re.escape(message)}$"):
        space_of((1, 1)).from_units(units)


def test_the_features_are_the_units_themselves():
    assert torch.equal(space_of((1, 2, 3)).features, torch.eye(3, dtype=torch.float64))
