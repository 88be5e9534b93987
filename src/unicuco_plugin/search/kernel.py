"""The surrogate's kernel: Matérn 5/2, with a length scale for every coordinate or for groups of them."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import MaternKernel
from gpytorch.priors import LogNormalPrior
from torch import Tensor

__all__ = ["make_kernel"]

# BoTorch's own prior and constraint (Hvarfner et al. 2024), which it offers only with one length scale per coordinate.
_SPREAD = math.sqrt(3.0)
_SHORTEST = 2.5e-2


def make_kernel(count: int, scales: Sequence[int] = (), seen: Sequence[int] | None = None) -> MaternKernel:
    """Make a kernel with the dimension-scaled prior.

    Args:
        count: Coordinates, ``e``.
        scales: For each which length scale it has, from 0 without gaps; empty for one each.
        seen: Which columns of the inputs are the coordinates; None for all.
    """
    if not scales:
        return get_covar_module_with_dim_scaled_prior(ard_num_dims=count, use_rbf_kernel=False, active_dims=seen)
    prior = LogNormalPrior(loc=math.sqrt(2.0) + 0.5 * math.log(count), scale=_SPREAD)
    return _Tied(
        torch.tensor(tuple(scales)),
        lengthscale_prior=prior,
        lengthscale_constraint=GreaterThan(_SHORTEST, transform=None, initial_value=prior.mode),
        active_dims=seen,
    )


class _Tied(MaternKernel):
    """A Matérn 5/2 kernel whose coordinates share length scales."""

    def __init__(self, of: Tensor, **options: Any) -> None:  # noqa: ANN401 - as gpytorch's
        super().__init__(nu=2.5, ard_num_dims=int(of.max()) + 1, **options)
        self.ard_num_dims = None  # gpytorch would hold it against the number of coordinates
        self.of = of

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:  # noqa: ANN401
        """Correlations; see gpytorch."""
        each = self.lengthscale[..., self.of]
        r = math.sqrt(5.0) * self.covar_dist(x1.div(each), x2.div(each), diag=diag, **params)
        return (1.0 + r + r.square() / 3.0) * (-r).exp()
