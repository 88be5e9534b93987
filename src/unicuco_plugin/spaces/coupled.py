r"""Strategies of units that choose from lists where groups of them may leave together, found from what choices cost.

Notation as in ``pricing`` and ``leaving``. The last place of a unit that may leave is being gone; what that costs a
group is the sum over its units.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from unicuco_plugin.spaces.knapsack import TOGETHER, Together, cheapest
from unicuco_plugin.spaces.leaving import Leaving
from unicuco_plugin.spaces.pricing import PRICES, Pricing
from unicuco_plugin.spaces.steps import Steps

__all__ = ["CoupledPricing", "Staying"]

# Sets of groups that are gone whose others' ladders are kept: a search comes back to few.
_KEPT = 512


@dataclass(frozen=True)
class Staying:
    """What is left to choose where some groups are gone.

    Attributes:
        units: Numbers of the units that stay.
        pricing: Of these.
        gone: Bits that the others have saved.
    """

    units: Tensor
    pricing: Pricing
    gone: float


@dataclass(frozen=True)
class CoupledPricing:
    """Solves for choices whose costs add up.

    Attributes:
        steps: Of all units, being gone the last one of those that may leave.
        leaving: Which groups there are.
        kinds: Number of the kind of each unit.
    """

    steps: Steps
    leaving: Leaving
    kinds: tuple[int, ...]

    @cached_property
    def _own(self) -> Pricing:
        """Of all units, none of them gone."""
        inside = {unit for group in self.leaving.groups for unit in group}
        ladders = tuple(row[:-1] if unit in inside else row for unit, row in enumerate(self.steps.ladders))
        return Pricing(Steps(self.steps.unit_params, ladders, self.steps.fine))

    @cached_property
    def _kept(self) -> dict[tuple[bool, ...], Staying]:
        return {}

    def staying(self, gone: Tensor) -> Staying:
        """What is left to choose where ``b`` groups are gone, or not."""
        key = tuple(gone.tolist())
        if key not in self._kept:
            if len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            units = (~self.leaving.units(gone[None])[0]).nonzero()[:, 0]
            own, places = self._own.steps, units.tolist()
            params, ladders = tuple(own.unit_params[i] for i in places), tuple(own.ladders[i] for i in places)
            saved = (gone * self.leaving.full).sum().item()
            self._kept[key] = Staying(units, Pricing(Steps(params, ladders, own.fine)), saved)
        return self._kept[key]

    def _by_groups(self, gone: Tensor) -> Iterator[tuple[Tensor, Staying]]:
        """Rows of ``p x b`` that are alike, and what is left to choose in them."""
        distinct, of = gone.unique(dim=0, return_inverse=True)
        for place, one in enumerate(distinct):
            yield (of == place).nonzero()[:, 0], self.staying(one)

    def near(self, s: Tensor, gone: Tensor, bits: Tensor) -> Tensor:
        """Whole steps near shares where some groups are gone: places ``p x d`` that meet a budget, to the bit.

        Args:
            s: ``p x d``; of units that are gone they do not count.
            gone: ``p x b``.
            bits: ``p``.
        """
        k = self.steps.most.repeat(len(s), 1)
        for rows, staying in self._by_groups(gone):
            at = s[rows][:, staying.units]
            k[rows[:, None], staying.units] = staying.pricing.steps.spend(at, bits[rows] - staying.gone)
        return k

    def back(self, k: Tensor) -> Tensor:
        """One strategy's places, ``d``, those of units that are gone as if they were back.

        They get what the units of their kind have that stay, or all that do.
        """
        away = self.leaving.units(self.leaving.gone(self.steps.shares(k)[None]))[0]
        kinds, found = torch.tensor(self.kinds), k.clone()
        for unit in away.nonzero()[:, 0].tolist():
            alike = ~away & (kinds == kinds[unit])
            found[unit] = k[alike if bool(alike.any()) else ~away].mean().round()
        return torch.minimum(found, self._own.steps.most)

    def costs_at(self, value: Callable[[Tensor], Tensor], k: Tensor, reach: int) -> Tensor:
        """``costs`` at one strategy, as :meth:`Pricing.costs_at`, being gone and being back among them.

        A group that is gone is put back beside the others first; its units' own changes are counted from there, and
        what it costs to be back is given to its first one.
        """
        gone, back = self.leaving.gone(self.steps.shares(k)[None])[0].tolist(), self.back(k)
        groups = list(map(list, self.leaving.groups))
        flipped = k.repeat(len(groups), 1)
        for row, group, away in zip(flipped, groups, gone, strict=True):
            row[group] = (back if away else self.steps.most)[group]
        base = dict.fromkeys(range(len(k)), k)
        base |= {unit: row for row, group, away in zip(flipped, groups, gone, strict=True) if away for unit in group}
        places = torch.arange(int(self.steps.most.max()) + 1, dtype=torch.float64)
        near = ((places - back[:, None]).abs() <= reach) & (places <= self._own.steps.most[:, None])
        unit, place = near.nonzero(as_tuple=True)
        changed = torch.stack([base[one] for one in unit.tolist()])
        changed[torch.arange(len(unit)), unit] = place.double()
        worth = value(self.steps.shares(torch.cat([k[None], flipped, changed]))).exp()
        worth = worth[1:] - worth[0]
        costs = torch.full((len(k), len(places)), torch.inf, dtype=torch.float64)
        costs[unit, place] = worth[len(groups) :]
        for group, away, cost in zip(groups, gone, worth.tolist(), strict=False):
            costs[group, self.steps.most[group].long()] = 0.0
            if away:
                own = torch.arange(len(places)) < self.steps.most[group[1:], None]
                costs[group[1:]] -= cost * own
            else:
                costs[group[0], int(self.steps.most[group[0]])] = cost
        return costs

    @cached_property
    def _inside(self) -> Tensor:
        """Unit numbers of each group, ``b x m``; ``d`` fills up."""
        groups = self.leaving.groups
        longest = max(map(len, groups))
        return torch.tensor([(*group, *[len(self.kinds)] * (longest - len(group))) for group in groups])

    def _added(self, each: Tensor) -> Tensor:
        """Sums over the units of each group, ``t x d`` to ``t x b``: in one order, whatever is summed beside them."""
        padded = torch.cat([each, torch.zeros_like(each[:, :1])], 1)
        total = padded[:, self._inside[:, 0]]
        for column in self._inside.T[1:]:
            total = total + padded[:, column]
        return total

    def _split(self, costs: Tensor) -> tuple[Tensor, Tensor]:
        """What own choices cost, ``t x d x l``, and being gone each group, ``t x b``, of ``costs`` at each budget."""
        own, last = costs.clone(), self.steps.most.long()
        leaving = costs.gather(2, last.expand(len(costs), -1)[..., None])[..., 0]
        units = self._inside[self._inside < len(self.kinds)]
        own[:, units, last[units]] = torch.inf
        return own[:, :, : self._own.saved.shape[1]], self._added(leaving)

    def spent(self, costs: Tensor, bits: Tensor) -> Tensor:
        """Choices at one price of a bit, then single steps onto each budget: ``t x d`` places, nearly the cheapest.

        Of the groups those leave that do at the lowest price at which enough bits are saved, and as many as do there,
        or just below it.
        """
        own, leaves = self._split(costs.expand(len(bits), -1, -1))
        worth, counts = self._at_one_price(own, leaves, bits)
        budget = torch.arange(len(bits)).repeat_interleave(counts.shape[1])
        gone = self.leaving.clamped(worth[budget], counts.flatten(), bits[budget])
        found = self.steps.most.repeat(len(gone), 1)
        for rows, staying in self._by_groups(gone):
            at = budget[rows]
            k = staying.pricing.spent(own[at][:, staying.units], bits[at] - staying.gone)
            found[rows[:, None], staying.units] = k
        best = self._sums(own[budget], leaves[budget], found).view(counts.shape).argmin(1)
        return found.view(*counts.shape, -1)[torch.arange(len(bits)), best]

    def _at_one_price(self, own: Tensor, leaves: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
        """How much better it is that each group leaves, ``t x b``, and how many may, fewer first, ``t x 2``."""
        least, most, steps = PRICES
        low, high = torch.full_like(bits, least), torch.full_like(bits, most)
        below = (self._worth(own, leaves, low)[0] > 0.0).sum(-1)
        for _ in range(steps):
            middle = 0.5 * (low + high)
            worth, saved = self._worth(own, leaves, middle)
            enough = saved >= bits - 0.5
            below = torch.where(enough, below, (worth > 0.0).sum(-1))
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        worth, _ = self._worth(own, leaves, high)
        return worth, torch.stack([below, (worth > 0.0).sum(-1)], 1).sort(dim=1).values

    def _worth(self, own: Tensor, leaves: Tensor, price: Tensor) -> tuple[Tensor, Tensor]:
        """How much better it is at ``t`` prices that each group leaves, ``t x b``, and what is saved where those do."""
        bit = torch.tensor([math.exp(one) for one in price.tolist()], dtype=torch.float64)[:, None]
        value, place = (own - bit[..., None] * self._own.saved).min(2)
        saved = self._own.saved.gather(1, place.T).T
        worth = self.leaving.kept_last(self._added(value) - leaves + bit * self.leaving.full)
        more = (self.leaving.full - self._added(saved)).masked_fill(worth <= 0.0, 0.0)
        return worth, saved.sum(-1) + more.sum(-1)

    def cheapest(self, costs: Tensor, bits: Tensor) -> Tensor:
        """The choices of least sum at each budget, ``t x d`` places."""
        own, leaves = self._split(costs[None])
        groups = [
            Together(units, cost, int(full))
            for units, cost, full in zip(
                self.leaving.groups, leaves[0].tolist(), self.leaving.full.tolist(), strict=True
            )
        ]
        targets = [int(one) for one in bits.tolist()]
        k = cheapest(own[0], self._own.saved.long(), targets, groups, self.leaving.needed).double()
        k = torch.where(k == TOGETHER, self.steps.most, k)
        # Where savings were counted coarsely a step is missing, or too much.
        gone = self.leaving.gone(self.steps.shares(k))
        settled = self.steps.most.repeat(len(k), 1)
        for rows, staying in self._by_groups(self.leaving.clamped(gone.double(), gone.sum(-1), bits)):
            at = torch.minimum(k[rows][:, staying.units], staying.pricing.steps.most)
            settled[rows[:, None], staying.units] = staying.pricing.steps.settle(at, at, at, bits[rows] - staying.gone)
        short = self.steps.shares(k) @ torch.tensor(self.steps.unit_params, dtype=torch.float64) < bits - 0.5
        better = short | (self._sums(own, leaves, settled) < self._sums(own, leaves, k))
        return torch.where(better[:, None], settled, k)

    def _sums(self, own: Tensor, leaves: Tensor, k: Tensor) -> Tensor:
        """What strategies ``t x d`` cost, ``t``; ``own`` and ``leaves`` are theirs, or one for all."""
        gone = self.leaving.gone(self.steps.shares(k))
        places = torch.minimum(k, self._own.steps.most).long()[..., None]
        each = own.expand(len(k), -1, -1).gather(2, places)[..., 0]
        return each.masked_fill(self.leaving.units(gone), 0.0).sum(-1) + leaves.masked_fill(~gone, 0.0).sum(-1)
