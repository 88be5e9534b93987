"""Fits the Gaussian process that stands in for measuring (BoTorch), and judges it on points it had not seen.

Notation as in ``posterior``; ``y`` are divergences in nats per token.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from gpytorch.kernels import ScaleKernel
from gpytorch.means import Mean
from gpytorch.mlls import ExactMarginalLogLikelihood
from torch import Tensor

from unicuco_plugin.policy.posterior import LEVEL, Z90, Posterior, Target
from unicuco_plugin.policy.prior import Prior
from unicuco_plugin.search.kernel import make_kernel

__all__ = ["Fit", "HeldOut", "Surrogate", "fit_surrogate"]

# L-BFGS iterations, not seconds: a time cap would make runs irreproducible. Warm-started fits converge within it.
_MAXITER = 75


@dataclass(frozen=True)
class HeldOut:
    """How the training divergences compare with what was predicted of each before it was known.

    Attributes:
        z: ``n`` errors of the target in predicted standard deviations, the measurements' noise included.
        log_density: ``n`` log densities of the divergences themselves, so that raw and log targets compare.
    """

    z: Tensor
    log_density: Tensor

    @classmethod
    def judge(cls, raw: Tensor, mean: Tensor, std: Tensor, target: Target) -> Self:
        """Compare ``n`` values of a target with their predictions."""
        z = (raw - mean) / std
        density = -0.5 * z**2 - std.log() - 0.5 * math.log(2.0 * math.pi)
        return cls(z, density - raw if target == "log" else density)  # Jacobian: p(y) = p(log y) / y

    def __add__(self, later: "HeldOut") -> "HeldOut":
        return HeldOut(torch.cat([self.z, later.z]), torch.cat([self.log_density, later.log_density]))

    @property
    def spread(self) -> float:
        """What deviations must be multiplied by so that 90 % intervals cover 90 % of the points, at least 1."""
        return max(torch.quantile(self.z.abs(), LEVEL).item() / Z90, 1.0)


@dataclass(frozen=True)
class Fit:
    """A Gaussian process of one target.

    Attributes:
        posterior: Its deviations as fitted, without ``spread``.
        held_out: Its judgement, over all points so far.
        state: BoTorch's, to warm-start the next fit.
        design: How many of the points were chosen before there was a fit.
    """

    posterior: Posterior
    held_out: HeldOut
    state: Mapping[str, Any]
    design: int


@dataclass(frozen=True)
class Surrogate:
    """The posterior to use, and the fits that it was chosen from.

    Attributes:
        target: Of the better fit.
        fits: One for each target that was tried.
    """

    target: Target
    fits: Mapping[Target, Fit]

    @property
    def held_out(self) -> HeldOut:
        """The judgement of the better fit."""
        return self.fits[self.target].held_out

    @property
    def posterior(self) -> Posterior:
        """The better fit, its deviations widened by what was held out."""
        return replace(self.fits[self.target].posterior, spread=self.held_out.spread)


def fit_surrogate(
    X: Tensor,
    y: Tensor,
    G: Tensor,
    *,
    target: Target | Literal["auto"] = "auto",
    previous: Surrogate | None = None,
    prior: Prior | None = None,
    scales: Sequence[int] = (),
) -> Surrogate:
    """Fit a scaled Matérn 5/2 ARD kernel by marginal likelihood, in float64.

    Of two targets the one is taken whose fit gives the first lot the higher density, each point left out in turn:
    nothing had chosen those points, while what a search picks says little of strategies that it would not pick. So the
    first fit decides, and later ones are of its target alone.
    Deviations are widened by what fits said of all points before they knew them: of the first lot left out in turn, of
    each later one by the fit before it came. Leave-one-out over all points would judge by the crowd that a search
    leaves where it has been.

    Args:
        X: ``n x d`` measured strategies, ``n >= 2``.
        y: ``n`` divergences of one fidelity, nats per token, positive.
        G: ``d x e`` feature map of the space.
        target: Model ``y``, ``log y``, or whichever predicts the first lot with the higher log density.
        previous: The fit on the first rows of ``X``; its hyperparameters start this one.
        prior: What the mean follows; then only ``log y`` is modelled, which is what it estimates.
        scales: Which length scale each of the ``e`` coordinates has; empty for one each.

    Raises:
        ValueError: If there are fewer than two points, a divergence is not positive and finite, or a prior meets the
            raw target.

    Source:
        UniCuCo Eq. (8); leave-one-out from Rasmussen and Williams 2006, Eqs. (5.10)-(5.12); judging by forecasts from
        Dawid 1984, "Statistical theory: the prequential approach"; the dimension-scaled prior from Hvarfner et al.
        2024, as BoTorch ships it.
    """
    if len(y) < 2 or not bool(((y > 0) & y.isfinite()).all()):
        raise ValueError(f"a surrogate needs two or more positive, finite divergences, got {y.tolist()[:8]}")
    if prior is not None and target == "raw":
        raise ValueError("a surrogate with a prior models log divergence, got target 'raw'")
    targets: tuple[Target, ...] = ("log", "raw") if target == "auto" else (target,)
    targets = targets if prior is None else ("log",)
    before = previous.fits if previous is not None else {}
    if previous is not None and previous.target in targets:
        targets = (previous.target,)  # the first lot has judged, and nothing that comes later changes that
    fits = {kind: _fit(X, y, G, kind, before.get(kind), prior, scales) for kind in targets}
    best = max(fits, key=lambda kind: fits[kind].held_out.log_density[: fits[kind].design].mean().item())
    return Surrogate(best, fits)


class _Expected(Mean):
    """``m + beta phi`` at the rows it was made for; ``phi`` travels as the last feature, out of the kernel's sight."""

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("constant", torch.nn.Parameter(torch.zeros((), dtype=torch.float64)))
        self.register_parameter("beta", torch.nn.Parameter(torch.ones((), dtype=torch.float64)))

    def forward(self, Z: Tensor) -> Tensor:
        return self.constant + self.beta * Z[..., -1]


def _fit(  # noqa: PLR0917 - the data, and what to make of it
    X: Tensor, y: Tensor, G: Tensor, target: Target, before: Fit | None, prior: Prior | None, scales: Sequence[int]
) -> Fit:
    raw = y.log() if target == "log" else y
    shift, scale = raw.mean().item(), max(raw.std().item(), 1e-6)
    t = (raw - shift) / scale
    Z = X @ G
    count = Z.shape[1]
    mean, seen = None, None
    if prior is not None:
        mean, seen = _Expected(), tuple(range(count))
        Z = torch.cat([Z, (prior(X)[:, None] - shift) / scale], 1)
    kernel = ScaleKernel(make_kernel(count, scales, seen))
    model = SingleTaskGP(Z, t[:, None], covar_module=kernel, mean_module=mean, outcome_transform=None)
    if before is not None:
        model.load_state_dict(before.state)
    mll = ExactMarginalLogLikelihood(model.likelihood, model)
    fit_gpytorch_mll(mll, optimizer_kwargs={"options": {"maxiter": _MAXITER}})
    model.eval()
    posterior = Posterior(
        X,
        G,
        kernel.base_kernel.lengthscale[0, list(scales) or slice(None)].detach().clone(),
        t,
        tau2=kernel.outputscale.item(),
        sigma2=model.likelihood.noise.item(),
        m=model.mean_module.constant.item(),
        shift=shift,
        scale=scale,
        target=target,
        beta=0.0 if mean is None else mean.beta.item(),
        prior=prior,
    )
    known = 0 if before is None else len(before.posterior.X)
    held_out = (
        _leave_one_out(posterior, raw)
        if before is None
        else before.held_out + _foreseen(before.posterior, X[known:], raw[known:])
    )
    return Fit(posterior, held_out, model.state_dict(), len(X) if before is None else before.design)


def _leave_one_out(fit: Posterior, raw: Tensor) -> HeldOut:
    inverse_diagonal = torch.cholesky_inverse(fit.L).diagonal()
    mean = fit.shift + fit.scale * (fit.t - fit.alpha / inverse_diagonal)
    return HeldOut.judge(raw, mean, fit.scale * inverse_diagonal.rsqrt(), fit.target)


def _foreseen(fit: Posterior, X: Tensor, raw: Tensor) -> HeldOut:
    """What a fit said of measurements that came after it."""
    mean, std = fit.predict(X)
    return HeldOut.judge(raw, mean, (std**2 + fit.scale**2 * fit.sigma2).sqrt(), fit.target)
