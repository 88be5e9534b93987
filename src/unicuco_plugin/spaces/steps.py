r"""Shares of units that come in steps, and how such shares meet a budget.

====== ======= =====================================================================
symbol shape   meaning
====== ======= =====================================================================
s      p x d   shares, any number in [0, 1]
k      p x d   steps removed, whole numbers up to ``K``
n      d       prunable parameters of each unit
V      d x l   shares of each unit after 0, 1, … steps, rising; rows filled up
====== ======= =====================================================================
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

__all__ = ["Steps"]

# Parameters are whole numbers: a quarter of one is far above what float64 loses, and two quarters stay below one.
_SLACK = 0.25
# Shares this near to 0 or 1 are meant to stay there: such units give or take a step only when no other can, since no
# unit has as many steps as they are put behind.
_PINNED, _LAST = 1e-9, 1e6
# Steps that are taken one by one; who needs more, as where a head weighs a thousand steps of an MLP, gets them at once,
# by sorting all that there are, which costs about as much as so many.
_SINGLY = 48


@dataclass(frozen=True)
class Steps:
    """Units that lose one step after another.

    Attributes:
        unit_params: Parameters of each unit, or whatever budgets are counted in; whole numbers.
        ladders: Shares of each unit after 0, 1, … steps, rising.
        fine: Parameters that a budget is met within, where steps allow it.
    """

    unit_params: tuple[int, ...]
    ladders: tuple[tuple[float, ...], ...]
    fine: float

    @classmethod
    def of_parts(cls, unit_params: tuple[int, ...], unit_parts: Sequence[tuple[int, int]]) -> Self:
        """Units of equal parts that go some at a time; the last step of a unit may be smaller.

        Args:
            unit_params: Parameters of all parts of each unit.
            unit_parts: ``(count, step)`` of each: its parts, and how many go together.
        """
        ladders = [
            tuple(min(place * step, count) / count for place in range(-(-count // step) + 1))
            for count, step in unit_parts
        ]
        fine = min(step * n / count for n, (count, step) in zip(unit_params, unit_parts, strict=True))
        return cls(unit_params, tuple(ladders), fine)

    @cached_property
    def _params(self) -> Tensor:
        return torch.tensor(self.unit_params, dtype=torch.float64)

    @cached_property
    def _values(self) -> Tensor:
        """``V``."""
        longest = max(map(len, self.ladders))
        return torch.tensor([row + row[-1:] * (longest - len(row)) for row in self.ladders], dtype=torch.float64)

    @cached_property
    def _sizes(self) -> Tensor:
        """Parameters of each step of each unit, ``d x (l - 1)``; none behind a unit's last."""
        return self._values.diff() * self._params[:, None]

    @cached_property
    def most(self) -> Tensor:
        """``K``: steps until a unit has lost all that it can, ``d``."""
        return torch.tensor([len(row) - 1.0 for row in self.ladders], dtype=torch.float64)

    @cached_property
    def smallest(self) -> float:
        """Parameters of the smallest step there is."""
        return self._sizes[self._sizes > 0.0].min().item()

    def shares(self, k: Tensor) -> Tensor:
        """Shares of ``k`` steps, ``p x d``; more than all are all."""
        places = torch.minimum(k, self.most).long().view(-1, len(self.unit_params))
        return self._values.gather(1, places.T).T.reshape(k.shape)

    def count(self, s: Tensor) -> Tensor:
        """The nearest whole numbers of steps, ``k``."""
        return torch.minimum(self.position(s).round().clamp_min(0), self.most)

    def position(self, s: Tensor) -> Tensor:
        """Shares in steps, whole numbers where whole steps go: the inverse of ``shares``."""
        flat = s.to(self._values).reshape(-1, len(self.unit_params)).T.contiguous()
        place = torch.searchsorted(self._values, flat, right=True) - 1
        place = torch.minimum(place.clamp_min(0), (self.most.long() - 1).clamp_min(0)[:, None])
        low, high = self._values.gather(1, place), self._values.gather(1, place + 1)
        return (place + (flat - low) / (high - low).clamp_min(1e-300)).T.reshape(s.shape)

    def spend(self, s: Tensor, budget: float | Tensor) -> Tensor:
        """Whole steps near shares: rounded, then step by step up to a budget and down onto it.

        Every step taken or given is that of the unit which is furthest from its share, in steps.

        Args:
            s: ``p x d``.
            budget: Parameters to remove, at least, and to exceed by less than ``fine`` where steps allow it; at
                most what all units can lose; one, or ``p`` of them. Any budget takes a step.

        Returns:
            ``k``, ``p x d``.
        """
        at = self.position(s)
        rise, fall = at - _LAST * (s < _PINNED), at + _LAST * (s > 1.0 - _PINNED)
        return self.settle(torch.minimum(at.round().clamp_min(0), self.most), rise, fall, budget)

    def settle(self, k: Tensor, rise: Tensor, fall: Tensor, budget: float | Tensor) -> Tensor:
        """Whole steps near those at which a search is: step by step up to a budget and down onto it.

        Args:
            k: ``p x d`` whole steps to begin with.
            rise: ``p x d``, in steps: who is furthest below this takes a step first.
            fall: ``p x d``, in steps: who is furthest above this gives one back first.
            budget: As ``spend``; or ``p`` of them, one for each row. More than all units can lose takes all.
        """
        target = (torch.as_tensor(budget, dtype=torch.float64) - _SLACK).clamp_min(_SLACK).expand(len(k))
        k = self._descend(self._climb(k, rise, target, self.most), fall, target)
        return self._refine(k, rise, fall, target)

    def _removed(self, k: Tensor) -> Tensor:
        return self.shares(k) @ self._params

    def _climb(self, k: Tensor, rise: Tensor, target: Tensor, most: Tensor) -> Tensor:
        """Add steps, up to ``most``, ``d`` or ``p x d``, until each row reaches the target, or has none left."""
        k, rows, removed, most = k.clone(), torch.arange(len(k)), self._removed(k), most.expand_as(k)
        behind = (rise - k).masked_fill(k >= most, -torch.inf)
        for _ in range(_SINGLY):
            furthest, unit = behind.max(-1)
            some = (removed[rows] < target[rows]) & (furthest > -torch.inf)
            rows, unit, behind = rows[some], unit[some], behind if bool(some.all()) else behind[some]
            before = k[rows, unit]
            removed[rows] += self._sizes[unit, before.long()]
            k[rows, unit] = after = before + 1.0
            # Of one unit of each row alone: all others stand where they stood.
            behind[torch.arange(len(rows)), unit] = (rise[rows, unit] - after).masked_fill(
                after >= most[rows, unit], -torch.inf
            )
            if not len(rows):
                return k
        k[rows] = self._climb_far(k[rows], rise[rows], target[rows], most[rows])
        return k

    def _climb_far(self, k: Tensor, rise: Tensor, target: Tensor, most: Tensor) -> Tensor:
        """As ``_climb``: a step is taken before all that are less far behind, and after those of its unit before it."""
        places = torch.arange(self._sizes.shape[1])
        there = (places >= k[..., None]) & (places < most[..., None])
        unit, sizes, there = self._in_order(rise[..., None] - places, there)
        before = self._removed(k)[:, None] + sizes.cumsum(-1) - sizes
        return k.scatter_add(1, unit, (there & (before < target[:, None])).double())

    def _in_order(self, ahead: Tensor, there: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All steps, the furthest first, ``p x (d (l - 1))``: whose each is, its parameters, whether it is there."""
        ahead, order = ahead.masked_fill(~there, -torch.inf).flatten(1).sort(dim=-1, descending=True, stable=True)
        there = ahead > -torch.inf
        return order // self._sizes.shape[1], self._sizes.flatten()[order].where(there, 0.0), there

    def _descend(self, k: Tensor, fall: Tensor, target: Tensor) -> Tensor:
        """Take back steps as long as each row still reaches the target."""
        k, rows, removed = k.clone(), torch.arange(len(k)), self._removed(k)
        ahead, last = k - fall, self._last(k).masked_fill(k <= 0, torch.inf)
        for _ in range(_SINGLY):
            spare = removed[rows] - target[rows]
            furthest, unit = ahead.where(last <= spare[:, None], -torch.inf).max(-1)
            some = furthest > -torch.inf
            if not bool(some.all()):
                rows, unit, ahead, last = rows[some], unit[some], ahead[some], last[some]
            at = torch.arange(len(rows))
            removed[rows] -= last[at, unit]
            k[rows, unit] = left = k[rows, unit] - 1.0
            ahead[at, unit] = left - fall[rows, unit]
            last[at, unit] = self._sizes[unit, (left.long() - 1).clamp_min(0)].masked_fill(left <= 0, torch.inf)
            if not len(rows):
                return k
        k[rows] = self._descend_far(k[rows], fall[rows], target[rows])
        return k

    def _descend_far(self, k: Tensor, fall: Tensor, target: Tensor) -> Tensor:
        """As ``_descend``: a unit whose next step is too large stays as it is, since no more is to spare later."""
        places = torch.arange(self._sizes.shape[1])
        while True:
            spare = (self._removed(k) - target)[:, None]
            able = (k > 0) & (self._last(k) <= spare)
            if not bool(able.any()):
                return k
            unit, sizes, there = self._in_order(places + 1 - fall[..., None], (places < k[..., None]) & able[..., None])
            given = there & (sizes.cumsum(-1) <= spare)
            k = k.scatter_add(1, unit, -given.double())

    def _last(self, k: Tensor) -> Tensor:
        """Parameters of the last step that each unit took."""
        sizes = self._sizes.gather(1, (k - 1).clamp_min(0).long().view(-1, len(self.unit_params)).T).T.reshape(k.shape)
        return sizes.masked_fill(k <= 0, 0.0)

    def _refine(self, k: Tensor, rise: Tensor, fall: Tensor, target: Tensor) -> Tensor:
        """Where no fine step is taken and the overshoot is larger than one: fine steps for the least coarse one."""
        over = self._removed(k) - target - _SLACK
        rows = (over >= self.fine).nonzero()[:, 0]
        one = k[rows]
        most, last = self._finely(one), self._last(one)
        coarse = (one > 0) & (last > self.fine + _SLACK) & (most == one)
        last = last.masked_fill(~coarse, torch.inf)
        unit = last.argmin(-1)
        room = ((self.shares(most) - self.shares(one)) * self._params).sum(-1)
        some = last.gather(-1, unit[:, None])[:, 0] - over[rows] <= room
        if not bool(some.any()):
            return k
        rows, one, most, coarse, unit = rows[some], one[some], most[some], coarse[some], unit[some]
        one[torch.arange(len(rows)), unit] -= 1.0
        one = self._climb(one, rise[rows], target[rows], most.where(~coarse, one))
        k = k.clone()
        k[rows] = self._descend(one, fall[rows], target[rows])
        return k

    def _finely(self, k: Tensor) -> Tensor:
        """How far each unit can go on in steps that are fine, ``p x d``."""
        sizes = self._sizes
        places = torch.arange(sizes.shape[1])
        fine = (sizes <= self.fine + _SLACK) & (places < self.most[:, None])
        ahead = fine | (places < k[..., None])
        return ahead.long().cumprod(-1).sum(-1).double()
