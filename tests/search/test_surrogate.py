import math

import pytest
import torch
from botorch.models import SingleTaskGP
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from gpytorch.kernels import ScaleKernel

from unicuco_plugin.policy.posterior import Z90
from unicuco_plugin.search.surrogate import HeldOut, fit_surrogate

D = 8
EYE = torch.eye(D, dtype=torch.float64)


def data(kind, n=40, seed=0):
    """Strategies and divergences that are additive on one scale, so that this scale is the one to model."""
    generator = torch.Generator().manual_seed(seed)
    X = (torch.rand(n, D, generator=generator, dtype=torch.float64) > 0.5).double()
    X[:, 0] = 1.0 - X[:, 1]  # no row is empty
    weights = 0.2 + torch.rand(D, generator=generator, dtype=torch.float64)
    noise = 0.02 * torch.randn(n, generator=generator, dtype=torch.float64)
    if kind == "log":
        return X, (2.0 * (X @ weights) - 4.0 + noise).exp()
    return X, 5.0 + X @ weights + noise


@pytest.fixture(scope="module")
def fitted():
    X, y = data("log")
    return X, y, fit_surrogate(X, y, EYE, target="log")


def test_the_posterior_is_botorchs_own(fitted):
    X, _, surrogate = fitted
    fit = surrogate.posterior
    kernel = ScaleKernel(get_covar_module_with_dim_scaled_prior(ard_num_dims=D, use_rbf_kernel=False))
    model = SingleTaskGP(X @ EYE, fit.t[:, None], covar_module=kernel, outcome_transform=None)
    model.load_state_dict(surrogate.fits["log"].state)
    x = torch.rand(9, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x[:4] = x[:4].round()
    with torch.no_grad():
        theirs = model.posterior(x)
        mean, std = fit.predict(x)
    torch.testing.assert_close(mean, fit.shift + fit.scale * theirs.mean[:, 0], rtol=1e-6, atol=1e-6)
    expected = fit.scale * fit.spread * theirs.variance[:, 0].sqrt()
    torch.testing.assert_close(std, expected, rtol=1e-6, atol=1e-6)


def test_leave_one_out_equals_refits_with_the_hyperparameters_fixed(fitted):
    X, y, surrogate = fitted
    fit = surrogate.posterior
    for i in range(len(y)):
        others = [j for j in range(len(y)) if j != i]
        kept = type(fit)(
            X[others], EYE, fit.ell, fit.t[others], fit.tau2, fit.sigma2, fit.m, fit.shift, fit.scale, "log"
        )
        mean, std = kept.predict(X[i : i + 1])
        noisy = (std.item() ** 2 + fit.scale**2 * fit.sigma2) ** 0.5
        z = (y[i].log().item() - mean.item()) / noisy
        assert surrogate.held_out.z[i].item() == pytest.approx(z, abs=1e-5)


@pytest.mark.parametrize("kind", ["log", "raw"])
def test_the_log_density_is_that_of_the_divergences_themselves(kind):
    y = data(kind)[1]
    mean, std = torch.full_like(y, 0.3), torch.linspace(0.5, 2.0, len(y), dtype=torch.float64)
    judged = HeldOut.judge(y.log() if kind == "log" else y, mean, std, kind)
    density = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, std), [torch.distributions.ExpTransform()] if kind == "log" else []
    )
    torch.testing.assert_close(judged.log_density, density.log_prob(y), atol=1e-9, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["log", "raw"])
def test_later_points_are_judged_by_the_fit_that_did_not_know_them(kind):
    X, y = data(kind)
    early = fit_surrogate(X[:30], y[:30], EYE, target=kind)
    late = fit_surrogate(X, y, EYE, target=kind, previous=early).held_out
    assert torch.equal(late.z[:30], early.held_out.z)
    fit = early.fits[kind].posterior
    mean, std = fit.predict(X[30:])
    noisy = (std**2 + fit.scale**2 * fit.sigma2).sqrt()
    torch.testing.assert_close(late.z[30:], ((y.log() if kind == "log" else y)[30:] - mean) / noisy)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["log", "raw"])
def test_the_scale_on_which_the_data_is_plain_is_chosen(kind):
    X, y = data(kind)
    assert fit_surrogate(X, y, EYE).posterior.target == kind


@pytest.mark.slow
def test_the_first_lot_alone_chooses_the_target():
    X, y = data("log")
    early = fit_surrogate(X[:30], y[:30], EYE)
    late = fit_surrogate(X, torch.cat([y[:30], data("raw")[1][30:]]), EYE, previous=early)
    first = {kind: fit.held_out.log_density[:30].mean().item() for kind, fit in early.fits.items()}
    assert {kind: fit.design for kind, fit in early.fits.items()} == {"log": 30, "raw": 30}
    assert late.target == early.target == max(first, key=first.get)
    # A target that has lost is not fitted again; fitting it would change nothing.
    assert set(late.fits) == {late.target}
    loser = fit_surrogate(X, y, EYE, target=min(first, key=first.get), previous=early)
    assert loser.held_out.log_density[:30].mean().item() == pytest.approx(first[loser.target], abs=1e-12)
    assert late.posterior.spread == late.held_out.spread


def test_intervals_cover_at_least_nine_tenths_of_held_out_points(fitted):
    _, y, surrogate = fitted
    covered = (surrogate.held_out.z.abs() <= Z90 * surrogate.posterior.spread + 1e-9).double().mean().item()
    assert covered >= 0.9 - 1.0 / len(y)


def test_intervals_that_are_too_narrow_are_widened_and_wide_ones_stay():
    assert HeldOut(torch.tensor([0.1, -0.2, 0.3]), torch.zeros(3)).spread == 1.0
    z = torch.linspace(-5.0, 5.0, 101, dtype=torch.float64)
    assert HeldOut(z, z).spread == pytest.approx(4.5 / Z90)


@pytest.mark.slow
def test_both_targets_start_from_where_they_ended():
    X, y = data("log")
    assert set(fit_surrogate(X, y, EYE).fits) == {"log", "raw"}


def test_the_same_data_gives_the_same_fit_and_a_warm_start_nearly_so(fitted):
    X, y, surrogate = fitted
    again = fit_surrogate(X, y, EYE, target="log").posterior
    assert torch.equal(again.ell, surrogate.posterior.ell)
    warm = fit_surrogate(X, y, EYE, target="log", previous=surrogate).posterior
    torch.testing.assert_close(warm.predict(X)[0], surrogate.posterior.predict(X)[0], rtol=1e-2, atol=1e-2)


def test_a_feature_map_decides_what_is_alike():
    X, y = data("log")
    pairs = torch.kron(torch.eye(D // 2, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64))
    fit = fit_surrogate(X, y, pairs, target="log").posterior
    swapped = X[:, [1, 0, *range(2, D)]]
    torch.testing.assert_close(fit.mean(X), fit.mean(swapped))


@pytest.mark.slow
def test_equal_divergences_can_be_fitted():
    X, _ = data("log", n=6)
    mean, _ = fit_surrogate(X, torch.full((6,), 0.5, dtype=torch.float64), EYE).posterior.log_predict(X)
    torch.testing.assert_close(mean, torch.full((6,), math.log(0.5), dtype=torch.float64), atol=1e-3, rtol=0)


@pytest.mark.parametrize("y", [[0.5], [0.5, 0.0], [0.5, -1.0], [0.5, math.nan], [0.5, math.inf]], ids=str)
def test_too_few_or_wrong_divergences_are_refused(y):
    with pytest.raises(ValueError, match=r"^a surrogate needs two or more positive, finite divergences, got \[0\.5"):
        fit_surrogate(EYE[: len(y)], torch.tensor(y, dtype=torch.float64), EYE)
