r"""What sensitivities alone say about a strategy: a sum over units, each with a curve of its own.

====== ===== =====================================================================
symbol shape meaning
====== ===== =====================================================================
knots  k     shares at which the curves are known, rising from 0
costs  d x k nats per token that a unit adds at each knot; 0 at the first, rising
phi    p     ``log sum_i cost_i(x_i)``
====== ===== =====================================================================
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from unicuco_plugin.objectives.floor import LEAST

__all__ = ["Prior"]


@dataclass(frozen=True)
class Prior:
    """An additive estimate of the logarithm of the divergence, differentiable in the strategy.

    Attributes:
        knots: As above.
        costs: As above.

    Raises:
        ValueError: If shapes disagree, knots do not rise from 0, or a cost is negative or not finite.
    """

    knots: Tensor
    costs: Tensor

    def __post_init__(self) -> None:
        if self.costs.dim() != 2 or self.costs.shape[1] != len(self.knots) or len(self.knots) < 2:
            raise ValueError(f"costs must be d x {len(self.knots)}, got {tuple(self.costs.shape)}")
        if self.knots[0] != 0.0 or not bool((self.knots.diff() > 0).all()):
            raise ValueError(f"knots must rise from 0, got {self.knots.tolist()}")
        if not bool((self.costs.isfinite() & (self.costs >= 0.0)).all()):
            raise ValueError("costs must be finite and at least 0")

    @classmethod
    def from_slopes(cls, knots: Tensor, slopes: Tensor) -> Self:
        """Integrate slopes by the trapezoid rule from 0, where a dense model has none.

        Args:
            knots: ``k - 1`` shares, rising, above 0.
            slopes: ``d x (k - 1)``, nats per token and unit share, at these shares; negative ones count as 0.
        """
        zero = knots.new_zeros(1)
        at = torch.cat([zero, knots])
        rising = torch.cat([slopes.new_zeros(len(slopes), 1), slopes.clamp_min(0.0)], 1)
        steps = 0.5 * (rising[:, 1:] + rising[:, :-1]) * at.diff()
        return cls(at, torch.cat([slopes.new_zeros(len(slopes), 1), steps.cumsum(1)], 1))

    @cached_property
    def _gradients(self) -> Tensor:
        return self.costs.diff(dim=1) / self.knots.diff()

    def __call__(self, x: Tensor) -> Tensor:
        """Estimate ``p x d`` strategies: ``phi``, a ``p`` tensor. Beyond the last knot curves go on straight."""
        return self.total(x).clamp_min(LEAST).log()

    def total(self, x: Tensor) -> Tensor:
        """The sum itself, a ``p`` tensor."""
        place = torch.bucketize(x.detach().contiguous(), self.knots).clamp(1, len(self.knots) - 1) - 1
        unit = torch.arange(x.shape[-1]).expand_as(place)
        cost = self.costs[unit, place] + self._gradients[unit, place] * (x - self.knots[place])
        return cost.sum(-1)
