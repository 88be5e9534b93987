"""Sets of units by their weight against brute force over all sets, of any sizes and with units that are needed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from whole_sets import groups_of, sets_of

from unicuco_plugin.errors import StrategyError
from unicuco_plugin.spaces import subsets
from unicuco_plugin.spaces.subsets import Subsets, units_by_size

# Few sizes, so that classes are large and totals meet; and many, so that they do not.
SIZES = st.one_of(
    st.lists(st.integers(1, 4), min_size=2, max_size=8), st.lists(st.integers(1, 60), min_size=2, max_size=8)
).map(tuple)


@st.composite
def cases(draw):
    sizes = draw(SIZES)
    needed = draw(groups_of(len(sizes)))
    scores = draw(st.lists(st.floats(-5, 5), min_size=2 * len(sizes), max_size=2 * len(sizes)))
    return Subsets(sizes, needed), torch.tensor(scores, dtype=torch.float64).view(2, -1)


def weights(found, x):
    return x @ torch.tensor(found.sizes, dtype=torch.float64)


@given(cases())
def test_totals_are_those_of_all_sets(case):
    found, _ = case
    rows = sets_of(len(found.sizes), found.needed)
    expected = sorted(set(weights(found, rows).tolist())) if len(rows) else []
    assert found.totals.tolist() == expected


@given(cases(), st.data())
def test_the_best_set_of_a_total_has_the_largest_sum_of_scores(case, data):
    found, scores = case
    if not len(found.totals):
        return
    total = data.draw(st.sampled_from(found.totals.tolist()))
    x = found.best(scores, total)
    rows = sets_of(len(found.sizes), found.needed)
    rows = rows[weights(found, rows) == total]
    assert {tuple(row) for row in x.tolist()} <= {tuple(row) for row in rows.tolist()}
    torch.testing.assert_close((x * scores).sum(-1), (rows @ scores.T).max(0).values)


@pytest.mark.parametrize("needed", [(), ((0, 3),), ((5,),), ((0, 2), (1, 3, 4))], ids=str)
def test_random_sets_reach_every_set_of_a_total_and_each_composition_alike(needed):
    found = Subsets((1, 1, 2, 2, 3, 4), needed)
    for total in found.totals.tolist():
        x = found.random(600, total, torch.Generator().manual_seed(0))
        rows = sets_of(len(found.sizes), found.needed)
        rows = rows[weights(found, rows) == total]
        assert {tuple(row) for row in x.tolist()} == {tuple(row) for row in rows.tolist()}
        compositions = [
            tuple(sorted(s for s, gone in zip(found.sizes, row, strict=True) if gone)) for row in x.tolist()
        ]
        if not needed:  # else units of one size are two classes, needed and not
            shares = [compositions.count(kind) / 600 for kind in set(compositions)]
            assert all(share == pytest.approx(1 / len(shares), abs=0.08) for share in shares)


def test_of_equally_good_compositions_fewer_of_the_small_units_go():
    found = Subsets((1, 1, 2, 2))
    assert found.best(torch.zeros(1, 4), 2).tolist() == [[0, 0, 1, 0]]


def test_thirty_six_blocks_of_as_many_sizes_are_no_obstacle():
    # As OpenELM's: widths in multiples of 256 neurons, and norms.
    sizes = tuple(3 * 3072 * 256 * (8 + i) + 2 * 3072 for i in range(36))
    found = Subsets(sizes)
    scores = torch.randn(4, 36, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = found.totals[len(found.totals) // 2].item()
    x = found.best(scores, total)
    assert weights(found, x).tolist() == [total] * 4
    # No exchange of one unit for another of the same weight helps, nor of two for two.
    worth = (x * scores).sum(-1)
    assert bool((worth >= (found.random(4, total, torch.Generator().manual_seed(1)) * scores).sum(-1)).all())


def test_more_sums_than_can_be_told_apart_are_refused(monkeypatch):
    monkeypatch.setattr(subsets, "_MOST", 100)
    with pytest.raises(StrategyError, match=r"^units of 8 sizes make more than 100 different sums, .*space sparsity$"):
        _ = Subsets(tuple(2**i for i in range(8))).totals


def test_units_are_sorted_by_size():
    assert {n: i.tolist() for n, i in units_by_size((3, 1, 3)).items()} == {1: [1], 3: [0, 2]}
