import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unicuco_plugin.policy.prior import Prior

KNOTS = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
SLOPES = torch.tensor([[0.1, 0.4, 2.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
PRIOR = Prior.from_slopes(KNOTS, SLOPES)

shares = st.floats(0.0, 1.0)


@given(a=shares, b=shares)
def test_the_estimate_is_the_sum_of_each_units_own_curve(a, b):
    alone = [PRIOR(torch.tensor([x], dtype=torch.float64)).exp().item() for x in ([a, 0.0], [0.0, b])]
    together = PRIOR(torch.tensor([[a, b]], dtype=torch.float64)).exp().item()
    assert together == pytest.approx(max(sum(v for v in alone if v > 1.0001e-4), 1e-4), abs=3e-4)


def test_curves_are_the_integrals_of_their_slopes():
    # Trapezoids of (0, 0), (0.2, 0.1), (0.5, 0.4), (0.9, 2.0).
    assert PRIOR.costs[0].tolist() == pytest.approx([0.0, 0.01, 0.01 + 0.075, 0.01 + 0.075 + 0.48])
    x = torch.tensor([[0.7, 0.0]], dtype=torch.float64)
    assert PRIOR(x).item() == pytest.approx(math.log(0.085 + 0.24))


def test_beyond_the_last_knot_a_curve_goes_on_straight():
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert PRIOR(x).exp().item() == pytest.approx(PRIOR.costs[0, -1].item() + 0.1 * 0.48 / 0.4)


def test_removing_nothing_has_a_logarithm():
    assert PRIOR(torch.zeros(1, 2, dtype=torch.float64)).item() == pytest.approx(math.log(1e-4))


@settings(max_examples=20)
@given(
    st.lists(
        st.floats(0.05, 0.95).filter(lambda v: min(abs(v - k) for k in (0.2, 0.5, 0.9)) > 1e-3), min_size=2, max_size=2
    )
)
def test_the_gradient_is_right(point):
    x = torch.tensor([point], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(PRIOR, (x,), eps=1e-7, atol=1e-5)


def test_negative_slopes_count_as_none():
    assert torch.equal(Prior.from_slopes(KNOTS, -SLOPES).costs, torch.zeros(2, 4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("knots", "costs", "message"),
    [
        ([0.1, 0.5], [[0.0, 1.0]], r"^knots must rise from 0, got \[0\.1, 0\.5\]$"),
        ([0.0, 0.0], [[0.0, 1.0]], r"^knots must rise from 0"),
        ([0.0, 0.5], [[0.0, 1.0, 2.0]], r"^costs must be d x 2, got \(1, 3\)$"),
        ([0.0, 0.5], [[0.0, -1.0]], r"^costs must be finite and at least 0$"),
        ([0.0, 0.5], [[0.0, math.nan]], r"^costs must be finite and at least 0$"),
    ],
)
def test_what_is_no_curve_is_refused(knots, costs, message):
    with pytest.raises(ValueError, match=message):
        Prior(torch.tensor(knots, dtype=torch.float64), torch.tensor(costs, dtype=torch.float64))
