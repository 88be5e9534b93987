"""Exact counts between levels: properties over random counts, and over random tables of zeros and losses."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.errors import LevelsError
from unicuco_plugin.levels.realise import choose_rows, realise

NAME = "model.layers.1.mlp.down_proj"  # 32 x 48, so that its 1536 weights lie in blocks of 20, 20 and 8 columns


@pytest.fixture
def linear(levels, decoder):
    return levels.linear(NAME), decoder.linears(1)[NAME].weight.data


def source_of(row, candidates):
    """The first of the candidates that a row equals."""
    return next((name for name, weight in candidates.items() if torch.equal(row, weight)), None)


@given(count=st.integers(0, 32 * 48))
def test_the_count_is_met_exactly_by_rows_of_two_neighbouring_levels(levels, count):
    stored = levels.linear(NAME)
    dense = torch.ones(32, 48, dtype=torch.bfloat16)
    weight = realise(stored, dense, count)
    assert int((weight == 0).sum()) == count
    totals = stored.zeros.sum(1).tolist()
    lower = max(level for level, total in enumerate(totals) if total <= count)
    if lower == len(totals) - 1:
        return
    versions = [dense, *(stored.decode(level) for level in range(1, len(totals)))]
    odd = []
    for row, values in enumerate(weight):
        if source_of(values, {level: versions[level][row] for level in (lower, lower + 1)}) is None:
            odd.append(row)
    assert len(odd) <= 1
    for row in odd:  # the one row that is finished: the lower level's, less its smallest survivors
        values, whole = weight[row], versions[lower][row]
        gone = (values == 0) & (whole != 0)
        assert torch.equal(values[~gone], whole[~gone])
        assert values[values != 0].abs().min() >= whole[gone].abs().max()


@pytest.mark.parametrize("level", [1, 2, 3])
def test_the_count_of_a_level_is_that_level_bit_for_bit(linear, level):
    stored, dense = linear
    weight = realise(stored, dense, int(stored.zeros[level].sum()))
    assert torch.equal(weight.view(torch.int16), stored.decode(level).view(torch.int16))


def test_no_zeros_are_the_dense_weight_itself(linear):
    stored, dense = linear
    assert realise(stored, dense, 0) is dense


def test_beyond_the_last_level_the_smallest_survivors_go(linear):
    stored, dense = linear
    last, total = stored.decode(3), int(stored.zeros[3].sum())
    weight = realise(stored, dense, total + 10)
    gone = (weight == 0) & (last != 0)
    assert int(gone.sum()) == 10
    assert last[gone].abs().max() <= weight[weight != 0].abs().min()
    assert not realise(stored, dense, dense.numel()).any()


def test_neither_the_dense_weight_nor_a_decoded_level_is_written_to(linear):
    stored, dense = linear
    before = dense.clone()
    kept = {level: stored.decode(level) for level in (1, 2, 3)}
    for count in range(1, dense.numel(), 97):
        realise(stored, dense, count, lambda level: kept[level])
    assert torch.equal(dense, before)
    assert all(torch.equal(weight, stored.decode(level)) for level, weight in kept.items())


def tables(draw, levels=3):
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(4, 12))
    zeros = [[draw(st.integers(0, columns)) for _ in range(rows)] for _ in range(levels + 1)]
    losses = [[draw(st.floats(0, 10)) for _ in range(rows)] for _ in range(levels + 1)]
    zeros = sorted(zeros, key=sum)
    return torch.tensor(zeros), torch.tensor(losses, dtype=torch.float64), rows * columns


@given(st.data())
def test_any_table_of_zeros_and_losses_gives_the_count(data):
    zeros, losses, numel = tables(data.draw)
    count = data.draw(st.integers(0, numel))
    mixture = choose_rows(zeros, losses, count)
    upper = zeros[min(mixture.lower + 1, len(zeros) - 1)]
    got = int(torch.where(mixture.upper, upper, zeros[mixture.lower]).sum()) + mixture.extra
    assert got == max(count, int(zeros[0].sum()))
    if mixture.finish is not None:
        assert not mixture.upper[mixture.finish]
        assert 0 < mixture.extra < upper[mixture.finish] - zeros[mixture.lower][mixture.finish]


@given(st.data())
def test_more_zeros_never_cost_less_where_levels_do(data):
    zeros, losses, _ = tables(data.draw)
    losses = losses.sort(dim=0).values

    def cost(count):
        mixture = choose_rows(zeros, losses, count)
        upper = losses[min(mixture.lower + 1, len(losses) - 1)]
        return torch.where(mixture.upper, upper, losses[mixture.lower]).sum().item()

    total = int(zeros[-1].sum())
    costs = [cost(count) for count in range(total + 1)]
    # A row that would gain no zero at the next level stays below until all others have gone: only there costs may jump,
    # and upwards.
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(costs))


def test_rows_whose_zeros_cost_least_go_first():
    zeros = torch.tensor([[0, 0, 0], [4, 2, 4]])
    losses = torch.tensor([[0.0, 0.0, 0.0], [8.0, 1.0, 4.0]])  # 2, 0.5 and 1 a zero
    chosen = [choose_rows(zeros, losses, count) for count in range(10)]
    assert [mixture.upper.tolist() for mixture in chosen[2:6:3]] == [[False, True, False], [False, True, False]]
    assert chosen[6].upper.tolist() == [False, True, True]
    assert (chosen[5].finish, chosen[5].extra) == (2, 3)
    assert (chosen[9].finish, chosen[9].extra) == (0, 3)


def test_a_dense_weight_with_more_zeros_than_asked_for_stays_as_it_is():
    mixture = choose_rows(torch.tensor([[3, 0], [2, 2]]), torch.zeros(2, 2), 2)
    assert (mixture.lower, mixture.upper.any().item(), mixture.extra) == (0, False, 0)


@pytest.mark.parametrize("count", [-1, 1537, 1.0, True])
def test_a_count_out_of_range_is_refused(linear, count):
    with pytest.raises(LevelsError, match=r"count of zeros must be an integer in \[0, 1536\], got "):
        realise(*linear, count)


def test_another_weight_is_refused(linear):
    stored, dense = linear
    with pytest.raises(LevelsError, match=r"is for a weight of 32 x 48, got \(48, 32\)"):
        realise(stored, dense.t(), 5)
    with pytest.raises(LevelsError, match=r"holds torch.bfloat16, the model is torch.float32"):
        realise(stored, dense.float(), 800)
