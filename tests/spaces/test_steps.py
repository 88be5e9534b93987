"""Whole steps against brute force on units small enough to list every strategy."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unicuco_plugin.spaces import steps as steps_module
from unicuco_plugin.spaces.steps import Steps

# A coarse unit, and two of ten parts in steps of four, the last of two.
STEPS = Steps.of_parts((300, 100, 100), ((3, 1), (10, 4), (10, 4)))
SIZES = torch.tensor([300.0, 100.0, 100.0], dtype=torch.float64)
ALL = torch.tensor(list(itertools.product(range(4), range(4), range(4))), dtype=torch.float64)
shares = arrays("float64", (1, 3), elements=st.floats(0.0, 1.0)).map(torch.from_numpy)


def test_steps_and_shares_are_inverse_and_last_steps_may_be_smaller():
    assert STEPS.most.tolist() == [3, 3, 3]
    assert STEPS.smallest == pytest.approx(20.0)
    assert STEPS.shares(torch.tensor([1.0, 2.0, 3.0])).tolist() == pytest.approx([1 / 3, 0.8, 1.0])
    torch.testing.assert_close(STEPS.count(STEPS.shares(ALL)), ALL)


@given(s=shares)
def test_the_count_is_that_of_the_nearest_step_in_steps(s):
    k = STEPS.count(s)
    assert bool(((k >= 0) & (k <= STEPS.most)).all())
    below, above = STEPS.shares((k - 1).clamp_min(0)), STEPS.shares(torch.minimum(k + 1, STEPS.most))
    assert bool(((s >= below - 1e-12) & (s <= above + 1e-12)).all())


@given(s=shares, budget=st.floats(0.0, 480.0))
def test_a_budget_is_reached_and_exceeded_by_less_than_a_fine_step_where_one_can_be_given(s, budget):
    k = STEPS.spend(s, budget)
    removed = (STEPS.shares(k) @ SIZES).item()
    assert removed >= max(budget - 0.5, 1.0)
    # No single step can be given back.
    saved = (STEPS.shares(k) - STEPS.shares((k - 1).clamp_min(0))) * SIZES
    assert bool(((saved == 0) | (removed - saved < budget - 0.2) | (removed - saved < 0.2)).all())
    totals = STEPS.shares(ALL) @ SIZES
    assert removed - totals[totals >= budget - 0.5].min() < 100.0


def test_more_than_all_units_can_lose_takes_all_and_ends():
    k = STEPS.spend(torch.tensor([[0.1, 0.2, 0.3], [1.0, 1.0, 1.0]], dtype=torch.float64), torch.tensor([501.0, 1e6]))
    assert k.tolist() == [[3.0, 3.0, 3.0]] * 2


def test_fine_steps_take_the_place_of_a_coarse_one_that_is_too_much():
    fine = Steps.of_parts((300, 300), ((3, 1), (30, 1)))
    k = fine.spend(torch.tensor([[1 / 3, 0.0]], dtype=torch.float64), 55.0)
    assert k.tolist() == [[0.0, 6.0]]


def test_a_coarse_step_stays_where_fine_ones_have_no_room():
    k = Steps.of_parts((300, 20), ((3, 1), (2, 1))).spend(torch.tensor([[0.3, 0.0]], dtype=torch.float64), 55.0)
    assert k.tolist() == [[1.0, 0.0]]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**30))
def test_many_steps_at_once_are_those_that_are_taken_one_by_one(seed):
    generator = torch.Generator().manual_seed(seed)
    d = 4
    counts = torch.randint(1, 12, (d,), generator=generator).tolist()
    weights = (10 ** torch.randint(0, 6, (d,), generator=generator)).tolist()
    parts = [(count, 1 + count // 9) for count in counts]
    steps = Steps.of_parts(tuple(c * w for c, w in zip(counts, weights, strict=True)), parts)
    shares = torch.rand(3, d, generator=generator, dtype=torch.float64)
    begun = (torch.rand(3, d, generator=generator, dtype=torch.float64) * steps.most).round()
    budgets = torch.rand(3, generator=generator, dtype=torch.float64) * sum(steps.unit_params)
    found = []
    for singly in (0, 10**6):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(steps_module, "_SINGLY", singly)
            found.append(
                torch.stack([steps.spend(shares, budgets), steps.settle(begun, begun.flip(0), begun, budgets)])
            )
    assert torch.equal(*found)
