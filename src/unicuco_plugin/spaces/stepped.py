r"""What spaces have in common whose shares come in steps, and whose budgets are spent smoothly first.

====== ===== =====================================================================
symbol shape meaning
====== ===== =====================================================================
z      p x d scores, any real number: higher, more goes
s      p x d shares ``sigmoid(z + c)`` that spend a budget before they are rounded
====== ===== =====================================================================
"""

from typing import Protocol

import torch
from torch import Tensor

from unicuco_plugin.spaces.sparsity import SparsitySpace
from unicuco_plugin.spaces.steps import Steps

__all__ = ["SteppedUnits"]


class _Own(Protocol):
    """What a space has beside this."""

    @property
    def _steps(self) -> Steps: ...

    @property
    def _smooth(self) -> SparsitySpace: ...

    def reaching(self, sparsity: float) -> float: ...

    def scores(self, x: Tensor) -> Tensor: ...

    def rounded(self, x: Tensor) -> Tensor: ...

    def project(self, scores: Tensor, sparsity: float | Tensor) -> Tensor: ...

    def spend(self, s: Tensor, sparsity: float | Tensor) -> Tensor: ...


class SteppedUnits:
    """A mixin for spaces with steps, and the same units before shares are rounded to them."""

    def relax(self: _Own, logits: Tensor) -> Tensor:
        """The nearest steps of the sigmoids; straight-through gradient."""
        soft = logits.sigmoid()
        return self.rounded(soft.detach()) + soft - soft.detach()

    def project(self: _Own, scores: Tensor, sparsity: float | Tensor) -> Tensor:
        """Spend a budget smoothly, ``s = sigmoid(z + c)``, then in whole steps, as near to that as they come.

        Where steps allow it, the overshoot is less than the finest of them.

        Args:
            scores: ``p x d``.
            sparsity: Share to remove, at least; in (0, 1); one, or ``p`` of them.

        Returns:
            ``p x d`` shares of whole steps, with the smooth projection's gradient.

        Raises:
            RequestError: If the space does not reach it.
        """
        each = torch.as_tensor(sparsity, dtype=torch.float64).expand(len(scores))
        reached = {one: self.reaching(one) for one in each.unique().tolist()}
        budgets = torch.tensor([reached[one] for one in each.tolist()], dtype=torch.float64)
        soft = self._smooth.project(scores, budgets)
        hard = self.spend(soft.detach(), budgets)
        return hard + soft - soft.detach() if soft.requires_grad else hard

    def spend(self: _Own, s: Tensor, sparsity: float | Tensor) -> Tensor:
        """Whole steps near any shares ``p x d`` that meet a budget; see :meth:`Steps.spend`."""
        return self._steps.shares(self._steps.spend(s, sparsity * sum(self._steps.unit_params)))

    def moved(self: _Own, X: Tensor, sparsity: float | Tensor) -> Tensor:
        """The strategies, each shifted onto the budget."""
        return self.project(self.scores(X), sparsity)

    def rounded(self: _Own, x: Tensor) -> Tensor:
        """The nearest strategies of whole steps, ``p x d``."""
        return self._steps.shares(self._steps.count(x))

    def key(self: _Own, x: Tensor) -> str:
        """The steps that each unit loses, such as ``"0,3,12"``."""
        return ",".join(map(str, self._steps.count(x).long().tolist()))

    def parse(self: _Own, key: str) -> Tensor:
        """The inverse of ``key``, ``d``.

        Raises:
            ValueError, RuntimeError: If it has not one number for each unit, or a unit has not so many steps.
        """
        k = torch.tensor([int(part) for part in key.split(",")], dtype=torch.float64)
        if len(k) != len(self._steps.unit_params):
            raise ValueError(f"key must have {len(self._steps.unit_params)} numbers, got {len(k)}")
        return self._steps.shares(k)
