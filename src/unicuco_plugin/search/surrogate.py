"""Fits the Gaussian process that stands in for measuring (BoTorch), and judges it on points left out.

Notation as in ``posterior``; ``y`` are divergences in nats per token, ``loo`` stands for leave-one-out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from gpytorch.kernels import ScaleKernel
from gpytorch.means import Mean
from gpytorch.mlls import ExactMarginalLogLikelihood
from torch import Tensor

from unicuco_plugin.search.posterior import LEVEL, Z90, Posterior, Target
from unicuco_plugin.search.prior import Prior

__all__ = ["LeftOut", "Surrogate", "fit_surrogate"]

# L-BFGS iterations, not seconds: a time cap would make runs irreproducible. Warm-started fits converge within it.
_MAXITER = 75


@dataclass(frozen=True)
class LeftOut:
    """Closed-form leave-one-out predictions of the training targets, each from all other points.

    Attributes:
        mean, std: ``n``, in the target's unit, noise included.
        log_density: Mean log density of the divergences themselves, so that raw and log targets compare.
    """

    mean: Tensor
    std: Tensor
    log_density: float


@dataclass(frozen=True)
class Surrogate:
    """A fitted posterior, with what is needed to judge it and to warm-start the next fit.

    Attributes:
        posterior: The fit on the better target.
        left_out: Its judgement.
        states: BoTorch's state of the fit on each target that was tried, so that the next choice is between equals.
    """

    posterior: Posterior
    left_out: LeftOut
    states: Mapping[Target, Mapping[str, Any]]


def fit_surrogate(
    X: Tensor,
    y: Tensor,
    G: Tensor,
    *,
    target: Target | Literal["auto"] = "auto",
    previous: Surrogate | None = None,
    prior: Prior | None = None,
) -> Surrogate:
    """Fit a scaled Matérn 5/2 ARD kernel by marginal likelihood, in float64.

    Args:
        X: ``n x d`` measured strategies, ``n >= 2``.
        y: ``n`` divergences of one fidelity, nats per token, positive.
        G: ``d x e`` feature map of the space.
        target: Model ``y``, ``log y``, or whichever predicts left-out divergences with the higher log density.
        previous: An earlier fit whose hyperparameters start this one.
        prior: What the mean follows; then only ``log y`` is modelled, which is what it estimates.

    Raises:
        ValueError: If there are fewer than two points, a divergence is not positive and finite, or a prior meets the
            raw target.

    Source:
        UniCuCo Eq. (8); leave-one-out from Rasmussen and Williams 2006, Eqs. (5.10)-(5.12); the dimension-scaled prior
        from Hvarfner et al. 2024, as BoTorch ships it.
    """
    if len(y) < 2 or not bool(((y > 0) & y.isfinite()).all()):
        raise ValueError(f"a surrogate needs two or more positive, finite divergences, got {y.tolist()[:8]}")
    if prior is not None and target == "raw":
        raise ValueError("a surrogate with a prior models log divergence, got target 'raw'")
    targets: tuple[Target, ...] = ("log", "raw") if target == "auto" else (target,)
    targets = targets if prior is None else ("log",)
    fits = [_fit(X, y, G, kind, previous.states.get(kind) if previous else None, prior) for kind in targets]
    best = max(fits, key=lambda fit: fit.left_out.log_density)
    return replace(best, states={target: state for fit in fits for target, state in fit.states.items()})


class _Expected(Mean):
    """``m + beta phi`` at the rows it was made for; ``phi`` travels as the last feature, out of the kernel's sight."""

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("constant", torch.nn.Parameter(torch.zeros((), dtype=torch.float64)))
        self.register_parameter("beta", torch.nn.Parameter(torch.ones((), dtype=torch.float64)))

    def forward(self, Z: Tensor) -> Tensor:
        return self.constant + self.beta * Z[..., -1]


def _fit(  # noqa: PLR0917 - the data, and what to make of it
    X: Tensor, y: Tensor, G: Tensor, target: Target, start: Mapping[str, Any] | None, prior: Prior | None
) -> Surrogate:
    raw = y.log() if target == "log" else y
    shift, scale = raw.mean().item(), max(raw.std().item(), 1e-6)
    t = (raw - shift) / scale
    Z = X @ G
    count = Z.shape[1]
    mean, seen = None, None
    if prior is not None:
        mean, seen = _Expected(), tuple(range(count))
        Z = torch.cat([Z, (prior(X)[:, None] - shift) / scale], 1)
    kernel = ScaleKernel(
        get_covar_module_with_dim_scaled_prior(ard_num_dims=count, use_rbf_kernel=False, active_dims=seen)
    )
    model = SingleTaskGP(Z, t[:, None], covar_module=kernel, mean_module=mean, outcome_transform=None)
    if start is not None:
        model.load_state_dict(start)
    mll = ExactMarginalLogLikelihood(model.likelihood, model)
    fit_gpytorch_mll(mll, optimizer_kwargs={"options": {"maxiter": _MAXITER}})
    model.eval()
    posterior = Posterior(
        X,
        G,
        kernel.base_kernel.lengthscale[0].detach().clone(),
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
    left_out = _leave_one_out(posterior, raw)
    z = ((raw - left_out.mean) / left_out.std).abs()
    # Widened, never narrowed: the archive is crowded where the search has been, so the errors of its left-out points
    # are smaller than those of strategies from elsewhere.
    spread = max(torch.quantile(z, LEVEL).item() / Z90, 1.0)
    return Surrogate(replace(posterior, spread=spread), left_out, {target: model.state_dict()})


def _leave_one_out(fit: Posterior, raw: Tensor) -> LeftOut:
    inverse_diagonal = torch.cholesky_inverse(fit.L).diagonal()
    mean = fit.shift + fit.scale * (fit.t - fit.alpha / inverse_diagonal)
    std = fit.scale * inverse_diagonal.rsqrt()
    density = -0.5 * ((raw - mean) / std) ** 2 - std.log() - 0.5 * math.log(2.0 * math.pi)
    if fit.target == "log":
        density = density - raw  # Jacobian: p(y) = p(log y) / y
    return LeftOut(mean, std, density.mean().item())
