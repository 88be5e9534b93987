r"""Scalarizations: one number to minimise from two objectives and a preference.

====== ========= ==========================================================================
symbol shape     meaning
====== ========= ==========================================================================
f      batch x 2 scaled objectives, minimised, always (size, quality)
lam    batch x 2 preference ``lambda >= 0``, not both 0, always (size, quality)
z_star 2         ideal point ``z*`` in scaled objectives, see ``Z_STAR``
g      batch     the scalarized objective, minimised
d_1    batch     signed distance from ``z*`` to ``f`` along the direction ``u``
d_2    batch     distance from ``f`` to the ray from ``z*`` along ``u``
xi     scalar    PBI's penalty on ``d_2``, > 0
====== ========= ==========================================================================

Scaled objectives are 0 at the ideal and 1 at the nadir of the non-dominated archive (``Scaling``), so that neither
objective's unit decides the trade-off.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Z_STAR", "Scalarization", "Scaling", "pbi", "tchebycheff", "weighted_sum"]

Scalarization = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(f, lam, z_star) -> g``: ``batch x 2``, ``batch x 2`` and ``2`` to ``batch``, differentiable in ``f``."""

# Slightly below the ideal, which scales to 0: at z* = 0 the objective in which an end point of the front is ideal would
# add 0 to Eq. (5) whatever its weight. Decided in docs/method.md; a hundredth of the front is not a measured choice.
Z_STAR = -0.01


def weighted_sum(f: Tensor, lam: Tensor, z_star: Tensor) -> Tensor:
    r"""Weigh the objectives: ``g = sum_i lambda_i f_i``.

    Reaches only the convex part of a front.

    Args:
        f: A ``batch x 2`` tensor of scaled objectives.
        lam: A ``batch x 2`` tensor of preferences.
        z_star: The ideal point, a tensor of 2; it would only add a constant and is not used.

    Returns:
        A ``batch`` tensor, differentiable in ``f`` and ``lam``.

    Source:
        UniCuCo, Eq. (4).
    """
    return (lam * f).sum(dim=-1)


def tchebycheff(f: Tensor, lam: Tensor, z_star: Tensor) -> Tensor:
    r"""Take the worst weighted distance from the ideal: ``g = max_i lambda_i (f_i - z*_i)``.

    Reaches every point of a front, convex or not. Where the two terms tie, the gradient is the mean of theirs, which is
    a subgradient too; the paper takes the first, and its case split leaves ``z*`` out.

    Args:
        f: A ``batch x 2`` tensor of scaled objectives.
        lam: A ``batch x 2`` tensor of preferences.
        z_star: The ideal point ``z*``, a tensor of 2.

    Returns:
        A ``batch`` tensor, differentiable in ``f`` and ``lam`` except at ties.

    Source:
        UniCuCo, Eq. (5), after Miettinen, 1999.
    """
    return (lam * (f - z_star)).amax(dim=-1)


def pbi(f: Tensor, lam: Tensor, z_star: Tensor, xi: float = 5.0) -> Tensor:
    r"""Penalise the distance from the preference's ray: ``g = d_1 + xi d_2``.

    With ``u = (lambda_2, lambda_1) / ||lambda||``,

        ``d_1 = (f - z*)^T u``  and  ``d_2 = || f - (z* + d_1 u) ||``.

    The ray is where Tchebycheff's two terms are equal, so that a weight on an objective makes that objective small in
    both; along ``lambda`` itself, as printed, the preferred objective would get the larger value.
    The paper prints ``d_2 = || f - (z* - d_1 lambda) ||``: the sign belongs to maximisation, and without the
    normalisation ``d_2`` would not vanish on the ray. It also prints ``d_1`` as a norm, that is without its sign;
    the two agree wherever ``z*`` is a lower bound, and below it (a prediction can fall there) only the signed one still
    rewards smaller objectives.

    Args:
        f: A ``batch x 2`` tensor of scaled objectives.
        lam: A ``batch x 2`` tensor of preferences, no row all zero.
        z_star: The ideal point ``z*``, a tensor of 2.
        xi: The penalty, > 0; the default is the larger of the paper's two (0.1 and 5) and MOEA/D's own.

    Returns:
        A ``batch`` tensor, differentiable in ``f`` and ``lam`` except on the ray itself, where the gradient is that of
        ``d_1``.

    Raises:
        ValueError: If ``xi`` is not positive.

    Source:
        UniCuCo, Eq. (14), corrected after Zhang and Li, 2007 (MOEA/D).
    """
    if not xi > 0.0:
        raise ValueError(f"xi must be positive, got {xi}")
    u = lam.flip(-1) / torch.linalg.vector_norm(lam, dim=-1, keepdim=True)
    d_1 = ((f - z_star) * u).sum(dim=-1)
    d_2 = torch.linalg.vector_norm(f - (z_star + d_1[..., None] * u), dim=-1)
    return d_1 + xi * d_2


@dataclass(frozen=True)
class Scaling:
    """The affine map that takes the ideal point to 0 and the nadir point to 1, each objective on its own.

    Attributes:
        ideal: The smallest (size, quality) on the front, in the objectives' own units.
        nadir: The largest (size, quality) on the front, above the ideal in both.

    Raises:
        ValueError: If a value is not finite, or a nadir is not above its ideal.
    """

    ideal: tuple[float, float]
    nadir: tuple[float, float]

    def __post_init__(self) -> None:
        for name, low, high in zip(("size", "quality"), self.ideal, self.nadir, strict=True):
            if not (low < high and math.isfinite(high - low)):
                raise ValueError(f"nadir of {name} must be above its ideal and finite, got ideal {low}, nadir {high}")

    def scale(self, f: Tensor) -> Tensor:
        """Map objectives to scaled objectives, ``batch_shape x 2`` to the same shape; differentiable."""
        ideal, span = self._ideal_and_span(f)
        return (f - ideal) / span

    def unscale(self, f: Tensor) -> Tensor:
        """Map scaled objectives back, ``batch_shape x 2`` to the same shape; differentiable."""
        ideal, span = self._ideal_and_span(f)
        return ideal + f * span

    def _ideal_and_span(self, like: Tensor) -> tuple[Tensor, Tensor]:
        ideal = torch.tensor(self.ideal, dtype=like.dtype, device=like.device)
        return ideal, torch.tensor(self.nadir, dtype=like.dtype, device=like.device) - ideal
