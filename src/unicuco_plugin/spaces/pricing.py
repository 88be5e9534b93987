r"""Strategies of units that choose from lists, found from what each choice costs where one stands.

====== ===== =====================================================================
symbol shape meaning
====== ===== =====================================================================
costs  d x l what each choice of a unit costs where all others stay, nats per token
k      p x d places in the units' lists
bits   t     budgets: bits to save, whole numbers
====== ===== =====================================================================
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from unicuco_plugin.spaces.knapsack import cheapest
from unicuco_plugin.spaces.steps import Steps

__all__ = ["PRICES", "REACH", "Pricing", "led_on"]

REACH = 2
"""Steps from where one stands within which costs of single units are looked up: they add up only nearby."""
# Of so many starts the best are led on, so often: a third round changes little.
_STARTS, _ROUNDS = 6, 3

PRICES = (-45.0, 5.0, 22)
"""The logarithm of the price of a bit, nats per token: where it is sought, and how often that is halved, to 1e-5. The
largest models have some 1e13 bits."""

# A preference among units, in steps: far below one, far above what float64 loses.
_HINT = 1e-3


@dataclass(frozen=True)
class Pricing:
    """Solves for choices whose costs add up.

    Attributes:
        steps: Of the units; budgets are counted in their parameters.
    """

    steps: Steps

    @cached_property
    def _places(self) -> Tensor:
        """Every place in the longest list, for each unit: ``d x l``."""
        longest = int(self.steps.most.max()) + 1
        return torch.arange(longest, dtype=torch.float64).expand(len(self.steps.unit_params), -1)

    @cached_property
    def saved(self) -> Tensor:
        """Bits that each choice saves, ``d x l``; rows filled up."""
        shares = self.steps.shares(self._places.T.contiguous())
        return (shares.T * torch.tensor(self.steps.unit_params, dtype=torch.float64)[:, None]).round()

    def costs_at(self, value: Callable[[Tensor], Tensor], k: Tensor, reach: int) -> Tensor:
        """``costs`` at one strategy.

        Args:
            value: ``q x d`` shares to ``q`` logarithms of nats per token.
            k: ``d``.
            reach: How many steps away; what is further, or not there, is infinite.
        """
        near = ((self._places - k[:, None]).abs() <= reach) & (self._places <= self.steps.most[:, None])
        unit, place = near.nonzero(as_tuple=True)
        changed = k.repeat(len(unit), 1)
        changed[torch.arange(len(unit)), unit] = place.double()
        costs = torch.full_like(self.saved, torch.inf)
        costs[unit, place] = value(self.steps.shares(changed)).exp() - value(self.steps.shares(k[None])).exp()
        return costs

    def spent(self, costs: Tensor, bits: Tensor) -> Tensor:
        """Choices at one price of a bit, then single steps onto each budget: ``t x d`` places, nearly the cheapest.

        Args:
            costs: ``d x l``, or ``t x d x l`` of each budget.
            bits: ``t``.
        """
        costs = costs.expand(len(bits), -1, -1)
        chosen = self._at_one_price(costs, bits)
        # Who makes up the difference: by what a unit's next step costs, or its last one spares, per bit.
        slope = costs.diff(dim=2) / self.saved.diff(dim=1).clamp_min(1e-300)
        steps = costs.shape[2] - 1
        up = slope.nan_to_num(torch.inf, torch.inf, torch.inf).gather(2, chosen.clamp_max(steps - 1)[..., None])[..., 0]
        down = slope.nan_to_num(0.0, 0.0, 0.0).gather(2, (chosen - 1).clamp_min(0)[..., None])[..., 0]
        k = chosen.double()
        rise, fall = (k - _HINT * price.argsort(1).argsort(1) / costs.shape[1] for price in (up, down))
        return self.steps.settle(k, rise, fall, bits)

    def _at_one_price(self, costs: Tensor, bits: Tensor) -> Tensor:
        """Each unit's place of least cost at the lowest price at which enough bits are saved, ``t x d``."""
        low, high = torch.full_like(bits, PRICES[0]), torch.full_like(bits, PRICES[1])
        for _ in range(PRICES[2]):
            middle = 0.5 * (low + high)
            choice = (costs - middle.exp()[:, None, None] * self.saved).argmin(-1)
            enough = self.saved.gather(1, choice.T).sum(0) >= bits - 0.5
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        return (costs - high.exp()[:, None, None] * self.saved).argmin(-1)

    def cheapest(self, costs: Tensor, bits: Tensor) -> Tensor:
        """The choices of least sum at each budget, ``t x d`` places."""
        k = cheapest(costs, self.saved.long(), [int(one) for one in bits.tolist()]).double().view(len(bits), -1)
        # Where savings were counted coarsely a step is missing, or too much.
        return self.steps.settle(k, k, k, bits)


class _Priced(Protocol):
    """What leads on from one strategy to another."""

    @property
    def steps(self) -> Steps: ...

    def costs_at(self, value: Callable[[Tensor], Tensor], k: Tensor, reach: int) -> Tensor: ...

    def spent(self, costs: Tensor, bits: Tensor) -> Tensor: ...


def led_on(pricing: _Priced, value: Callable[[Tensor], Tensor], k: Tensor, bits: Tensor) -> Tensor:
    """Where strategies at a budget lead: the least sum of what each unit's own changes cost there, again and again.

    Args:
        pricing: Of their units.
        value: ``q x d`` shares to ``q`` logarithms of nats per token.
        k: ``p x d`` places; the best few are led on, the others stay.
        bits: Their one budget.
    """
    best, lowest = k.clone(), value(pricing.steps.shares(k))
    for row in lowest.argsort(stable=True)[:_STARTS].tolist():
        for _ in range(_ROUNDS):
            found = pricing.spent(pricing.costs_at(value, best[row], REACH), bits)
            [worth] = value(pricing.steps.shares(found))
            if worth >= lowest[row] - 1e-9:
                break
            best[row], lowest[row] = found[0], worth
    return best
