"""Screening against the posterior itself, and against looking at every move."""

import pytest
import torch

from unicuco_plugin.policy.descent import _best_of_all, descend
from unicuco_plugin.policy.posterior import Posterior, matern52_of
from unicuco_plugin.policy.prior import Prior
from unicuco_plugin.policy.screening import Screening
from unicuco_plugin.spaces.depth import DepthSpace
from unicuco_plugin.spaces.sublayer import SublayerSpace

DEPTH = DepthSpace(tuple(f"b.{i}" for i in range(24)), (3,) * 24)
HALVES = SublayerSpace(tuple(f"b.{i}.{kind}" for i in range(12) for kind in ("self_attn", "mlp")), (16, 48) * 12)
SHORT, LONG = 0.8, 5.0


def posterior_of(space, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = space.first(80, generator)
    d = X.shape[1]
    t = X @ torch.randn(d, generator=generator, dtype=torch.float64) + 0.3 * torch.randn(80, generator=generator)
    ell = length * (0.5 + torch.rand(d, generator=generator, dtype=torch.float64))
    return Posterior(X, space.features, ell, t / t.std(), 1.0, 0.01, 0.0, -1.0, 0.7, "log")


def starts_of(space, count=4):
    generator = torch.Generator().manual_seed(3)
    return torch.cat([space.random(count, budget, generator) for budget in space.budgets])


both = pytest.mark.parametrize("space", [DEPTH, HALVES], ids=["depth", "sublayer"])
lengths = pytest.mark.parametrize("length", [SHORT, LONG])


def second_order(posterior, x):
    """What single flips add to the mean, by derivatives that autograd finds."""
    # Away from zero, where the correlation is given no slope.
    S = torch.cdist(x / posterior.ell, posterior.points).square().clamp_min(1e-8).requires_grad_()
    (first,) = torch.autograd.grad(matern52_of(S).sum(), S, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), S)
    moved = (1.0 - 2.0 * x)[:, :, None] * ((1.0 - 2.0 * posterior.X) / posterior.ell**2).T
    change = first.detach()[:, None] * moved + 0.5 * second[:, None] * moved.square()
    return posterior.scale * posterior.tau2 * change @ posterior.alpha


@both
@lengths
def test_single_flips_change_the_mean_as_the_posterior_says(space, length):
    posterior, x = posterior_of(space, length), starts_of(space, 1)
    d = x.shape[1]
    flipped = (x[:, None] - torch.eye(d, dtype=torch.float64)).abs()
    exact = posterior.mean(flipped.flatten(0, 1)).view(len(x), d) - posterior.mean(x)[:, None]
    found = posterior.scale * posterior.tau2 * Screening(posterior, space, 0.0).singles(x)
    near = posterior.ell > 2.0  # the others' flips go too far for a series
    assert bool(near.all()) == (length == LONG)
    series = second_order(posterior, x)
    torch.testing.assert_close(found[:, :d].double(), torch.where(near, series, exact), atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(found[:, :d].double(), exact, atol=0.02, rtol=1e-4)
    assert not found[:, d].abs().gt(1e-4).any()


@both
@lengths
@pytest.mark.parametrize("kappa", [0.0, -0.5, 1.0])
def test_the_best_move_is_that_of_all_moves(space, length, kappa):
    posterior, x = posterior_of(space, length), starts_of(space)
    moved, bound = Screening(posterior, space, kappa).best(x)
    _, least = _best_of_all(posterior, space, kappa, x)
    torch.testing.assert_close(bound, posterior.bound(moved, "upper", kappa))
    assert bool((bound >= least - 1e-9).all())
    # Nearly always the very best of up to 144, never far behind.
    assert (bound <= least + 1e-9).double().mean() > 0.9
    assert bool((bound <= least + 0.05 * posterior.scale).all())


@both
def test_screened_descents_end_as_low_as_those_that_look_at_every_move(space, monkeypatch):
    posterior, x = posterior_of(space, LONG), starts_of(space)
    screened = descend(posterior, space, x, space.sparsity(x), kappa=-0.5)
    monkeypatch.setattr(Screening, "fits", lambda _: False)
    whole = descend(posterior, space, x, space.sparsity(x), kappa=-0.5)
    assert (screened == whole).all(1).double().mean() > 0.95
    budgets = space.sparsity(x)
    bounds = [posterior.bound(ends, "upper", -0.5) for ends in (screened, whole)]
    for budget in budgets.unique():
        here = budgets == budget
        assert bounds[0][here].min() <= bounds[1][here].min() + 1e-9


@both
def test_the_same_starts_end_the_same(space):
    posterior, x = posterior_of(space, LONG), starts_of(space)
    assert torch.equal(*(descend(posterior, space, x, space.sparsity(x), kappa=-0.5) for _ in range(2)))


def test_nothing_but_units_is_screened():
    posterior = posterior_of(DEPTH, LONG)
    assert Screening.fits(posterior)
    prior = Prior(torch.tensor([0.0, 1.0]).double(), torch.tensor([[0.0, 1.0]] * 24).double())
    other = Posterior(
        posterior.X, posterior.G, posterior.ell, posterior.t, 1.0, 0.01, 0.0, -1.0, 0.7, "log", 1.0, 1.0, prior
    )
    assert not Screening.fits(other)
    mixed = Posterior(posterior.X, posterior.G.flip(0), posterior.ell, posterior.t, 1.0, 0.01, 0.0, -1.0, 0.7, "log")
    assert not Screening.fits(mixed)
