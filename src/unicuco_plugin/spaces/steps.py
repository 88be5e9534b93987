r"""Shares of units that come in whole steps, and how such shares meet a budget.

====== ===== =====================================================================
symbol shape meaning
====== ===== =====================================================================
s      p x d shares, any number in [0, 1]
k      p x d steps removed, whole numbers up to ``K``
n      d     prunable parameters of each unit
====== ===== =====================================================================
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Steps"]

# Parameters are whole numbers: a quarter of one is far above what float64 loses, and two quarters stay below one.
_SLACK = 0.25
# Shares this near to 0 or 1 are meant to stay there: such units give or take a step only when no other can, since no
# unit has as many steps as they are put behind.
_PINNED, _LAST = 1e-9, 1e6


@dataclass(frozen=True)
class Steps:
    """Units of equal parts that go some at a time; the last step of a unit may be smaller.

    Attributes:
        unit_params: Parameters of all parts of each unit.
        unit_parts: ``(count, step)`` of each: its parts, and how many go together.
    """

    unit_params: tuple[int, ...]
    unit_parts: tuple[tuple[int, int], ...]

    @cached_property
    def _params(self) -> Tensor:
        return torch.tensor(self.unit_params, dtype=torch.float64)

    @cached_property
    def _count(self) -> Tensor:
        return torch.tensor([count for count, _ in self.unit_parts], dtype=torch.float64)

    @cached_property
    def _step(self) -> Tensor:
        return torch.tensor([step for _, step in self.unit_parts], dtype=torch.float64)

    @cached_property
    def most(self) -> Tensor:
        """``K``: steps that remove each unit whole, ``d``."""
        return (self._count / self._step).ceil()

    @cached_property
    def smallest(self) -> float:
        """Parameters of the smallest step there is."""
        last = self._count - (self.most - 1) * self._step
        return (last * self._params / self._count).min().item()

    def shares(self, k: Tensor) -> Tensor:
        """Shares of ``k`` steps, ``p x d``."""
        return (k * self._step).clamp_max(self._count) / self._count

    def count(self, s: Tensor) -> Tensor:
        """The nearest whole numbers of steps, ``k``."""
        return torch.minimum(self._position(s).round().clamp_min(0), self.most)

    def _position(self, s: Tensor) -> Tensor:
        """Shares in steps, whole numbers where whole steps go: the inverse of ``shares``."""
        steps, full = s * self._count / self._step, self.most - 1
        last = self._count / self._step - full
        return torch.where(steps <= full, steps, full + (steps - full) / last)

    def spend(self, s: Tensor, budget: float | Tensor) -> Tensor:
        """Whole steps near shares: rounded, then step by step up to a budget and down onto it.

        Every step taken or given is that of the unit which is furthest from its share, in steps.

        Args:
            s: ``p x d``.
            budget: Parameters to remove, at least, and to exceed by less than the finest step where one can be given;
                at most all but the smallest step; one, or ``p`` of them. Any budget takes a step.

        Returns:
            ``k``, ``p x d``.
        """
        target = (torch.as_tensor(budget, dtype=torch.float64) - _SLACK).clamp_min(_SLACK).expand(len(s))
        k = self._descend(self._climb(self.count(s), s, target, self.most), s, target)
        return self._refine(k, s, target)

    def _removed(self, k: Tensor) -> Tensor:
        return self.shares(k) @ self._params

    def _climb(self, k: Tensor, s: Tensor, target: Tensor, most: Tensor) -> Tensor:
        """Add steps, up to ``most``, until each row reaches the target."""
        k, place, pinned = k.clone(), self._position(s), _LAST * (s < _PINNED)
        rows = (self._removed(k) < target).nonzero()[:, 0]
        while len(rows):
            at = k[rows]
            behind = (place[rows] - at - pinned[rows]).masked_fill(at >= most, -torch.inf)
            k[rows, behind.argmax(-1)] += 1.0
            rows = rows[self._removed(k[rows]) < target[rows]]
        return k

    def _descend(self, k: Tensor, s: Tensor, target: Tensor) -> Tensor:
        """Take back steps as long as each row still reaches the target."""
        k, place, pinned = k.clone(), self._position(s), _LAST * (s > 1.0 - _PINNED)
        rows = torch.arange(len(k))
        while len(rows):
            at = k[rows]
            saved = (self.shares(at) - self.shares((at - 1).clamp_min(0))) * self._params
            spare = (at > 0) & (self._removed(at)[:, None] - saved >= target[rows, None])
            some = spare.any(-1)
            rows, at, spare = rows[some], at[some], spare[some]
            ahead = (at - place[rows] - pinned[rows]).masked_fill(~spare, -torch.inf)
            k[rows, ahead.argmax(-1)] -= 1.0
        return k

    def _refine(self, k: Tensor, s: Tensor, target: Tensor) -> Tensor:
        """Where no fine step is taken and the overshoot is larger than one: fine steps for the least coarse one."""
        size = self._step * self._params / self._count
        fine = size <= size.min()
        over = self._removed(k) - target - _SLACK
        k = k.clone()
        for row in (over >= size.min()).nonzero()[:, 0].tolist():
            coarse = (k[row] > 0) & ~fine
            room = ((1.0 - self.shares(k[row])) * self._params)[fine].sum()
            if bool(coarse.any()) and bool(size[coarse].min() - over[row] <= room):
                given = size.masked_fill(~coarse, torch.inf).argmin()
                one = k[row : row + 1].clone()
                one[0, given] -= 1
                one = self._climb(one, s[row : row + 1], target[row : row + 1], torch.where(fine, self.most, one[0]))
                k[row] = self._descend(one, s[row : row + 1], target[row : row + 1])[0]
        return k
