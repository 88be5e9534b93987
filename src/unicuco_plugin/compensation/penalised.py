r"""Ridge regressions at a cut, of whole modules and of the many widths that one may get.

Symbols are those of :mod:`.moments`. A module that keeps the inputs ``K``, with ``V`` for their weights, is to give
what the whole one gave, and ``r`` beside it. With ``P = C + s G W^T`` the projection ``U`` that minimises
``sum_t w ||s U u_K - s W u - r||^2 + lambda s^2 ||U - V||^2`` is given by
``s U^T = (G_KK + lambda I)^{-1} (P_K + lambda s V^T)``. ``P`` and ``lambda`` are the same for all widths, so one costs
a factor of ``G_KK`` and two triangular solves.
"""

import math
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from unicuco_plugin.compensation.cut import Crosses, Cut
from unicuco_plugin.models.tensors.sending import sent

__all__ = ["Pair", "Ridge", "RidgeWidths", "find_ridge", "mean_diagonal"]

# Multiples of G's mean diagonal, strongest first; the first that the next one is not better than on held-out windows is
# taken, since solving is most of what a correction costs in a search.
_RIDGES = (10.0, 1.0, 3e-1, 1e-1, 3e-2, 1e-2, 1e-3, 1e-4)


Pair: TypeAlias = tuple[Tensor, Tensor]
"""Moments of inputs, ``c x c``, and of inputs with targets, ``c x d``."""


@dataclass(frozen=True)
class Ridge:
    """The best of several ridges.

    Attributes:
        penalty: ``lambda``.
        solution: ``c x d``.
    """

    penalty: float
    solution: Tensor


def find_ridge(fit: Pair, held: Pair, drawn_to: Tensor, size: float) -> Ridge | None:
    """``argmin_B sum_t w ||B^T u - x||^2 + lambda ||B - B_0||^2``; ``lambda`` falls for as long as the error does.

    Args:
        fit: Of the rows to solve from, ``c x c`` of their inputs, and ``c x d`` of these with their targets ``x``.
        held: Of the rows to choose by.
        drawn_to: ``c x d``, ``B_0``.
        size: What ``lambda`` is tried in multiples of: the mean of the diagonal of the whole module's ``G``.

    Returns:
        None where there is none that could be solved for.
    """
    (gram, cross), (held_gram, held_cross) = fit, held
    least, best = math.inf, None
    for share in _RIDGES:
        factor, failed = torch.linalg.cholesky_ex(_ridged(gram, share * size))
        if failed:
            break
        B = torch.cholesky_solve(cross + share * size * drawn_to, factor)
        error = float((B * (held_gram @ B - 2.0 * held_cross)).sum())
        if not error < least:
            break
        least, best = error, Ridge(share * size, B)
    return best


def mean_diagonal(gram: Tensor) -> float:
    """Of moments; above zero."""
    return float(gram.diagonal().mean().clamp_min(1e-30))


def _ridged(gram: Tensor, penalty: float) -> Tensor:
    ridged = gram.clone()
    ridged.diagonal().add_(penalty)
    return ridged


@dataclass(frozen=True)
class RidgeWidths:
    """See ``Widths``.

    Attributes:
        weight: ``W``, float64.
        scale: ``s``.
        gram: ``G + lambda I``.
        target: ``P``.
        penalty: ``lambda``; None where none could be solved for, and nothing is corrected.
    """

    weight: Tensor
    scale: float
    gram: Tensor
    target: Tensor
    penalty: float | None

    @classmethod
    def of(cls, cut: Cut) -> "RidgeWidths":
        """From the whole module's cut, with all modules behind it.

        ``lambda`` is the best one for the half of the inputs that gives most of its output. On SmolLM2-135M's MLPs that
        was the best one, or the next to it, at every width from a quarter to nine tenths.
        """
        W, s = cut.weight, cut.scale
        gives = cut.fit.gram.diagonal() * W.square().sum(0)
        some = gives.topk(-(-len(gives) // 2)).indices.sort().values
        fit, held = ((one.gram, s * (one.gram @ W.T)) for one in (cut.fit, cut.held))
        half, other = ((gram.index_select(0, some).index_select(1, some), P[some]) for gram, P in (fit, held))
        best = find_ridge(half, other, s * W[:, some].T, mean_diagonal(cut.fit.gram))
        penalty = None if best is None else best.penalty
        return cls(W, s, _ridged(cut.fit.gram, penalty or 0.0), fit[1], penalty)

    @property
    def nbytes(self) -> int:
        """See ``Widths``."""
        return sum(tensor.nbytes for tensor in (self.weight, self.gram, self.target))

    def sent(self, device: torch.device | str) -> "RidgeWidths":
        """See ``Widths``."""
        weight, gram, target = (sent(tensor, device) for tensor in (self.weight, self.gram, self.target))
        return RidgeWidths(weight, self.scale, gram, target, self.penalty)

    def before(self, crosses: Crosses) -> "RidgeWidths":
        """See ``Widths``."""
        return replace(self, target=self.target + crosses[0])

    def fit(self, columns: Tensor, kept: Tensor) -> Tensor:
        """See ``Widths``."""
        if self.penalty is None:
            return kept
        factor, failed = torch.linalg.cholesky_ex(self.gram.index_select(0, columns).index_select(1, columns))
        if failed:
            return torch.full_like(kept, math.nan)
        pulled = self.target.index_select(0, columns) + self.penalty * self.scale * kept.T
        return torch.cholesky_solve(pulled, factor).T / self.scale
