"""First strategies and the prior that slopes give."""

import pytest
import torch

from unicuco_plugin.spaces.sparsity import SparsitySpace
from unicuco_plugin.training.structure import find_prior, find_starts

NAMES = tuple(f"model.layers.{i}.{kind}" for i in range(4) for kind in ("a", "b"))
SPACE = SparsitySpace(NAMES, (100, 300) * 4)
SHARES = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64)
# Unit slopes: proportional to size, but the first unit three times as sensitive and the last hardly at all.
FACTORS = torch.tensor([3.0, 1, 1, 1, 1, 1, 1, 0.01], dtype=torch.float64)
GROWTH = torch.exp(6.0 * (SHARES - 0.5))
SLOPE = (FACTORS * SPACE.params)[:, None] * GROWTH[None] / 800.0


def test_starts_are_distinct_meet_budgets_and_begin_with_the_uniform_ones():
    rows = find_starts(SPACE, SLOPE)
    sparsity = SPACE.sparsity(rows)
    budgets = torch.tensor(SPACE.budgets, dtype=torch.float64)
    assert bool(((sparsity[:, None] - budgets).abs().amin(1) < 1e-9).all())
    assert len({SPACE.key(row) for row in rows}) == len(rows)
    uniform = rows[: len(budgets)]
    torch.testing.assert_close(uniform, budgets[:, None].expand_as(uniform), rtol=0, atol=1e-9)


def test_sensitive_units_lose_less_in_the_starts_that_follow_slopes():
    rows = find_starts(SPACE, SLOPE)
    follow = rows[len(SPACE.budgets) :]
    # Against the unit of the same kind in the next block, ramps apart.
    assert (follow[:, 0] < follow[:, 2]).double().mean() > 0.7
    assert (follow[:, 7] > follow[:, 5]).double().mean() > 0.7


def test_the_prior_follows_the_slopes_it_is_made_of():
    prior = find_prior(SPACE, SHARES, SLOPE)
    x = torch.full((1, 8), 0.55, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(prior(x).exp().sum(), x)
    relative = gradient[0] / SPACE.params
    assert (relative[0] / relative[1]).item() == pytest.approx(3.0, rel=0.05)
    assert gradient.sum().item() == pytest.approx(SLOPE[:, 1:].sum(0).mean().item(), rel=0.05)


def test_a_unit_without_slope_still_costs_something():
    prior = find_prior(SPACE, SHARES, SLOPE)
    last = torch.zeros(1, 8, dtype=torch.float64)
    last[0, 7] = 0.6
    other = torch.zeros(1, 8, dtype=torch.float64)
    other[0, 5] = 0.6
    assert 0.1 < (prior(last).exp() / prior(other).exp()).item() < 0.5


def test_one_level_alone_is_given_the_common_growth():
    prior = find_prior(SPACE, SHARES[1:2], SLOPE[:, 1:2])
    low, high = (prior(torch.full((1, 8), s, dtype=torch.float64)).exp().item() for s in (0.4, 0.6))
    assert 2.5 < high / low < 4.0
