"""The projection onto a budget, against its optimality conditions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.errors import RequestError
from unicuco_plugin.scores.budget import BOUNDS, block_sizes, meet_budget, name_units

cases = st.lists(st.tuples(st.floats(-1.0, 2.0), st.integers(1, 10_000)), min_size=1, max_size=12)


@given(cases, st.floats(*BOUNDS))
def test_the_weighted_mean_is_the_budget_and_unclipped_shares_move_together(case, sparsity):
    shares, sizes = torch.tensor([s for s, _ in case], dtype=torch.float64), [n for _, n in case]
    found = meet_budget(shares, sizes, sparsity)
    n = torch.tensor(sizes, dtype=torch.float64)
    assert (found @ n / n.sum()).item() == pytest.approx(sparsity, abs=1e-12)
    assert BOUNDS[0] <= found.min()
    assert found.max() <= BOUNDS[1]
    # Optimal for the weighted squares: one multiplier for all inside, its sign right for those at a bound.
    moved = found - shares
    inside = (found > BOUNDS[0] + 1e-9) & (found < BOUNDS[1] - 1e-9)
    if inside.any():
        c = moved[inside][0]
        assert (moved[inside] - c).abs().max() < 1e-9
        assert (moved[found <= BOUNDS[0]] >= c - 1e-9).all()
        assert (moved[found >= BOUNDS[1]] <= c + 1e-9).all()


def test_shares_that_meet_the_budget_stay():
    shares = torch.tensor([0.4, 0.6, 0.5], dtype=torch.float64)
    torch.testing.assert_close(meet_budget(shares, [2, 2, 7], 0.5), shares, rtol=0, atol=1e-15)


def test_what_sticks_out_is_clipped_and_the_rest_makes_up_for_it():
    # 0.35 too much at the first; the two others, of one size together, take it up.
    found = meet_budget(torch.tensor([1.3, 0.25, 0.25]), [1, 1, 1], 0.6)
    torch.testing.assert_close(found, torch.tensor([0.95, 0.425, 0.425], dtype=torch.float64))


def test_a_budget_beyond_the_bounds_is_refused():
    with pytest.raises(RequestError, match=r"^sparsity must be in \[0, 0.95\] for peers, got 0.97$"):
        meet_budget(torch.tensor([0.5]), [1], 0.97)


def test_shares_that_are_not_finite_are_refused():
    with pytest.raises(RequestError, match=r"^shares must be finite"):
        meet_budget(torch.tensor([0.5, float("nan")]), [1, 1], 0.5)


def test_sizes_are_the_linears_and_units_of_share_0_are_left_out(decoder):
    # Llama: q and o 32 x 32, k and v 16 x 32, three of 48 x 32.
    assert block_sizes(decoder) == [2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32] * 4
    assert name_units(("a", "b"), torch.tensor([0.0, 0.5])) == {"b": 0.5}
