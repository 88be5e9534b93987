r"""AlphaPruning: blocks whose weights have heavy-tailed spectra are well trained and keep more.

====== ===== =========================================================================
symbol shape meaning
====== ===== =========================================================================
lam    N     eigenvalues of ``W^T W``, squared singular values of a weight, ascending
alpha        exponent of the power law that the upper n eigenvalues follow
eps          half width of the map from block means of alpha to sparsity
====== ===== =========================================================================
"""

import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unicuco_plugin.models.tensors.finite import check_finite
from unicuco_plugin.peers.peer import PeerRequest, PeerResult, choose_space
from unicuco_plugin.progress import Progress
from unicuco_plugin.scores.budget import block_sizes, check_budget, meet_budget, name_units

__all__ = ["AlphaPruning", "hill_alpha", "map_alphas"]

# Where the power law begins (the "fix-finger" rule): at the peak of a histogram of log eigenvalues, with so many bins,
# or anywhere between these shares of it, where the fit is best.
_BINS = 100
_FROM, _TO = 0.95, 1.5
# Eigenvalues this much smaller than the largest are rounding.
_NOTHING = 1e-12


@dataclass(frozen=True)
class AlphaPruning:
    """Sparsity proportional to a linear map of each block's mean tail exponent.

    Attributes:
        eps: Sparsities are ``1 - eps`` to ``1 + eps`` times a common factor.

    Source:
        Lu et al. 2024, "AlphaPruning: Using Heavy-Tailed Self Regularization Theory for Improved Layer-wise Pruning";
        bins and range of the tail's beginning as in its public code, which takes the logarithm of the lower end by
        mistake and so searches further down.
    """

    eps: float = 0.3
    spaces: ClassVar[tuple[str, ...]] = ("sparsity",)
    takes: ClassVar[frozenset[str]] = frozenset()
    serves_all: ClassVar[bool] = True

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Find block sparsities; see :class:`Peer`. Needs no text, so it spends no tokens."""
        choose_space(self, request)
        check_budget(request.sparsity)
        started = time.perf_counter()
        decoder = request.decoder
        means = []
        for index in range(len(decoder.blocks)):
            request.progress(Progress("decomposing blocks", index, len(decoder.blocks)))
            weights = [linear.weight.detach() for linear in decoder.linears(index).values()]
            means.append(sum(hill_alpha(_eigenvalues(weight)) for weight in weights) / len(weights))
        request.progress(Progress("decomposing blocks", len(decoder.blocks), len(decoder.blocks)))
        # A block of a single eigenvalue has an infinite exponent, which is known what to do with.
        check_finite("tail exponent", [mean for mean in means if mean != float("inf")], decoder.model.dtype)
        sizes = block_sizes(decoder)
        mapped = map_alphas(torch.tensor(means, dtype=torch.float64), sizes, request.sparsity, self.eps)
        units = name_units(decoder.block_names, meet_budget(mapped, sizes, request.sparsity))
        details = {"alphas": means, "eps": self.eps}
        return PeerResult("sparsity", units, request.sparsity, 0, time.perf_counter() - started, details)


def hill_alpha(lam: Tensor) -> float:
    """Estimate the exponent of a power-law tail, ``p(lam) ~ lam^-alpha`` for ``lam >= lam_min``.

    ``alpha = 1 + n / sum_i log(lam_i / lam_min)`` over the ``n`` eigenvalues from ``lam_min`` on, which is the one in
    [0.95, 1.5] times the histogram's peak whose fit has the smallest Kolmogorov-Smirnov distance.

    Args:
        lam: ``N`` eigenvalues; those that are nearly 0 are left out.

    Returns:
        The exponent; infinity where fewer than two eigenvalues differ.
    """
    lam = lam.double().cpu().sort().values
    lam = lam[lam > _NOTHING * lam.max()]
    if len(lam) < 2 or lam[0] == lam[-1]:
        return float("inf")
    peak = _peak(lam)
    within = ((lam >= _FROM * peak) & (lam <= _TO * peak)).nonzero()[:, 0].tolist()
    starts = [start for start in within if lam[start] < lam[-1]] or [0]
    return min((_fit(lam[start:]) for start in starts), key=lambda fit: fit[1])[0]


def map_alphas(alphas: Tensor, sizes: list[int], sparsity: float, eps: float) -> Tensor:
    """``d`` sparsities ``eta · m``, ``m`` the exponents mapped to [1 - eps, 1 + eps], ``eta`` such that they meet S."""
    finite = alphas.double()
    known = finite[finite.isfinite()]
    finite = finite.clamp(max=known.max() if len(known) else 1.0)
    width = finite.max() - finite.min()
    m = 1.0 - eps + 2.0 * eps * ((finite - finite.min()) / width if width > 0 else torch.full_like(finite, 0.5))
    n = torch.tensor(sizes, dtype=torch.float64)
    return m * (sparsity * n.sum() / (n @ m))


def _eigenvalues(weight: Tensor) -> Tensor:
    return torch.linalg.svdvals(weight.float()).square()


def _peak(lam: Tensor) -> float:
    logs = lam.log10()
    low, high = logs[0].item(), logs[-1].item()
    counts = torch.histc(logs, _BINS, min=low, max=high)
    return float(10.0 ** (low + int(counts.argmax()) * (high - low) / _BINS))


def _fit(tail: Tensor) -> tuple[float, float]:
    """Exponent and Kolmogorov-Smirnov distance of ``n`` ascending eigenvalues of a tail."""
    n = len(tail)
    total = (tail / tail[0]).log().sum().item()
    alpha = 1.0 + n / total
    model = 1.0 - (tail / tail[0]) ** (1.0 - alpha)
    return alpha, (model - torch.arange(n, dtype=torch.float64) / n).abs().max().item()
