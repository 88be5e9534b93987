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

    def _split(self, costs: Tensor) -> tuple[Tensor, Tensor]:
        """What own choices cost, ``d x l``, and being gone each group, ``b``."""
        own, leaves = costs.clone(), []
        for group in map(list, self.leaving.groups):
            last = self.steps.most[group].long()
            leaves.append(costs[group, last].sum())
            own[group, last] = torch.inf
        return own[:, : self._own.saved.shape[1]], torch.stack(leaves)

    def spent(self, costs: Tensor, bits: Tensor) -> Tensor:
        """Choices at one price of a bit, then single steps onto each budget: ``t x d`` places, nearly the cheapest.

        Of the groups those leave that do at the lowest price at which enough bits are saved, and as many as do there,
        or just below it.
        """
        each = costs.expand(len(bits), -1, -1)
        return torch.stack([self._spent(*self._split(own), one) for own, one in zip(each, bits, strict=True)])

    def _spent(self, own: Tensor, leaves: Tensor, bits: Tensor) -> Tensor:
        low, high, steps = PRICES
        below = int((self._worth(own, leaves, low)[0] > 0.0).sum())
        for _ in range(steps):
            middle = 0.5 * (low + high)
            worth, saved = self._worth(own, leaves, middle)
            if saved >= bits - 0.5:
                high = middle
            else:
                low, below = middle, int((worth > 0.0).sum())
        worth, _ = self._worth(own, leaves, high)
        counts = torch.tensor(sorted({below, int((worth > 0.0).sum())}))
        gone = self.leaving.clamped(worth.expand(len(counts), -1), counts, bits.expand(len(counts)))
        found = self.steps.most.repeat(len(counts), 1)
        for rows, staying in self._by_groups(gone):
            k = staying.pricing.spent(own[staying.units], (bits - staying.gone)[None])
            found[rows[:, None], staying.units] = k
        return found[self._sums(own, leaves, found).argmin()]

    def _worth(self, own: Tensor, leaves: Tensor, price: float) -> tuple[Tensor, float]:
        """How much better it is at a price that each group leaves, ``b``, and what is saved where those do."""
        bit = math.exp(price)
        value, place = (own - bit * self._own.saved).min(1)
        saved = self._own.saved.gather(1, place[:, None])[:, 0]
        stay = torch.stack([value, saved]) @ self.leaving.members
        worth = self.leaving.kept_last((stay[0] - leaves + bit * self.leaving.full)[None])[0]
        return worth, (saved.sum() + (self.leaving.full - stay[1])[worth > 0.0].sum()).item()

    def cheapest(self, costs: Tensor, bits: Tensor) -> Tensor:
        """The choices of least sum at each budget, ``t x d`` places."""
        own, leaves = self._split(costs)
        groups = [
            Together(units, cost, int(full))
            for units, cost, full in zip(self.leaving.groups, leaves.tolist(), self.leaving.full.tolist(), strict=True)
        ]
        targets = [int(one) for one in bits.tolist()]
        k = cheapest(own, self._own.saved.long(), targets, groups, self.leaving.needed).double()
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
        """What strategies ``t x d`` cost, ``t``."""
        gone = self.leaving.gone(self.steps.shares(k))
        each = own.gather(1, torch.minimum(k, self._own.steps.most).long().T).T
        return each.masked_fill(self.leaving.units(gone), 0.0).sum(-1) + leaves.masked_fill(~gone, 0.0).sum(-1)
