import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from unicuco_plugin.policy.posterior import FLOOR, Posterior, matern52

N, D, E = 12, 5, 4


def posterior_of(seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    fields = {
        "X": (rand(N, D) > 0.5).double(), "G": rand(D, E), "ell": 0.5 + rand(E), "t": rand(N) - 0.5, "tau2": 1.3,
        "sigma2": 0.02, "m": 0.1, "shift": -0.4, "scale": 0.8, "target": "log", "spread": 1.2,
    }  # fmt: skip
    return Posterior(**(fields | changes))


POINTS = torch.rand(6, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def by_hand(fit, x):
    """Mean and deviation from the textbook's formulas, with a plain inverse and a double loop for the kernel."""

    def k(a, b):
        r = math.sqrt(5.0) * (((a - b) @ fit.G / fit.ell) ** 2).sum().sqrt().item()
        return fit.tau2 * (1.0 + r + r * r / 3.0) * math.exp(-r)

    K = torch.tensor([[k(a, b) for b in fit.X] for a in fit.X], dtype=torch.float64)
    inverse = (K + fit.sigma2 * torch.eye(N, dtype=torch.float64)).inverse()
    cross = torch.tensor([[k(a, b) for b in fit.X] for a in x], dtype=torch.float64)
    mean = fit.m + cross @ inverse @ (fit.t - fit.m)
    variance = fit.tau2 - (cross @ inverse * cross).sum(-1)
    return fit.shift + fit.scale * mean, fit.scale * fit.spread * variance.sqrt()


def test_predictions_are_the_textbooks():
    fit = posterior_of()
    for found, expected in zip(fit.predict(POINTS), by_hand(fit, POINTS), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_the_mean_alone_is_the_same_mean():
    fit = posterior_of()
    torch.testing.assert_close(fit.mean(POINTS), fit.predict(POINTS)[0])


def test_thousands_of_points_at_once_are_predicted_as_one_by_one():
    fit = posterior_of()
    x = torch.rand(1000, D, generator=torch.Generator().manual_seed(6), dtype=torch.float64, requires_grad=True)
    mean, std = fit.predict(x)
    alone = [fit.predict(row[None]) for row in x]
    torch.testing.assert_close(mean, torch.cat([m for m, _ in alone]))
    torch.testing.assert_close(std, torch.cat([s for _, s in alone]))
    torch.testing.assert_close(fit.mean(x), mean)
    (slope,) = torch.autograd.grad(fit.mean(x).sum(), x)
    torch.testing.assert_close(slope[-1:], torch.autograd.grad(fit.mean(x[-1:]).sum(), x)[0][-1:])


def test_without_noise_measured_points_are_interpolated():
    X = torch.eye(D, dtype=torch.float64)
    fit = posterior_of(X=X, G=X, ell=torch.ones(D).double(), t=torch.arange(D).double() / D, sigma2=1e-9)
    mean, std = fit.predict(X)
    torch.testing.assert_close(mean, fit.shift + fit.scale * fit.t, rtol=0, atol=1e-6)
    assert std.max() < 1e-3


@pytest.mark.parametrize(
    "function",
    [
        lambda fit, x: fit.predict(x),
        lambda fit, x: fit.mean(x),
        lambda fit, x: fit.bound(x, "lower", 0.7),
        lambda fit, x: fit.bound(x, "upper", 0.7),
        lambda fit, x: fit.log_predict(x),
        lambda fit, x: matern52(x, fit.X),
    ],
    ids=["predict", "mean", "lower", "upper", "log_predict", "matern52"],
)
@pytest.mark.parametrize("target", ["log", "raw"])
def test_gradients_match_finite_differences(function, target):
    fit = posterior_of(target=target, shift=1.5)
    assert torch.autograd.gradcheck(lambda x: function(fit, x), (POINTS.clone().requires_grad_(),))


def test_gradients_are_finite_at_measured_points():
    fit = posterior_of()
    x = fit.X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(sum(part.sum() for part in fit.predict(x)), x)
    assert gradient.isfinite().all()


@given(kappa=st.floats(0.0, 5.0))
def test_the_bounds_lie_kappa_deviations_from_the_mean(kappa):
    fit = posterior_of()
    mu, sigma = fit.predict(POINTS)
    torch.testing.assert_close(fit.bound(POINTS, "lower", kappa), mu - kappa * sigma)
    torch.testing.assert_close(fit.bound(POINTS, "upper", kappa), mu + kappa * sigma)
    torch.testing.assert_close(fit.bound(POINTS, "none", kappa), mu)


def test_a_logarithmic_target_turns_into_nats():
    fit = posterior_of(target="log")
    assert fit.divergence(torch.tensor([0.0, -1.0])).tolist() == pytest.approx([1.0, math.exp(-1)])
    for found, expected in zip(fit.log_predict(POINTS), fit.predict(POINTS), strict=True):
        assert torch.equal(found, expected)


def test_a_raw_target_is_floored_and_its_logarithm_taken_to_first_order():
    fit = posterior_of(target="raw", shift=0.2)
    mu, sigma = fit.predict(POINTS)
    log_mean, log_std = fit.log_predict(POINTS)
    torch.testing.assert_close(log_mean, mu.clamp_min(FLOOR).log())
    torch.testing.assert_close(log_std, sigma / mu.clamp_min(FLOOR))
    assert fit.divergence(torch.tensor([-3.0])).tolist() == pytest.approx([FLOOR])


def test_a_posterior_returns_from_a_safetensors_file_with_the_same_predictions():
    fit = posterior_of()
    read = Posterior.from_tensors(load(save(fit.to_tensors())), fit.target)
    for found, expected in zip(read.predict(POINTS), fit.predict(POINTS), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ell": None}, "surrogate lacks ell"),
        ({"t": None, "spread": None}, "surrogate lacks t, spread"),
        ({"t": torch.zeros(N + 1)}, f"surrogate's t must be ({N},), got ({N + 1},)"),
        ({"G": torch.zeros(D, E + 1)}, f"surrogate's G must be ({D}, {E}), got ({D}, {E + 1})"),
        ({"X": torch.zeros(N, D + 1)}, f"surrogate's G must be ({D + 1}, {E}), got ({D}, {E})"),
        ({"ell": torch.full((E,), math.inf)}, "surrogate's tensors must be finite"),
        ({"tau2": torch.tensor(math.nan)}, "surrogate's tensors must be finite"),
    ],
    ids=str,
)
def test_tensors_that_are_no_posterior_are_refused(change, message):
    tensors = {k: v for k, v in (posterior_of().to_tensors() | change).items() if v is not None}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Posterior.from_tensors(tensors, "log")
