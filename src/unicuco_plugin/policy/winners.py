"""Answers of a space that refines, between the winners that training has confirmed: they take a millisecond or two."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from unicuco_plugin.errors import StrategyError, quoted
from unicuco_plugin.policy.posterior import Posterior
from unicuco_plugin.spaces.space import Refining, Space

__all__ = ["Winners"]

# Shares are quotients of whole numbers, of far fewer digits.
_SLACK = 1e-12


class Winners:
    """Confirmed strategies, and where they lead at budgets beside theirs.

    Args:
        space: One that refines.
        posterior: The surrogate.
        keys: Of the confirmed strategies, one or more.

    Raises:
        StrategyError: If the space does not refine.
    """

    def __init__(self, space: Space, posterior: Posterior, keys: Sequence[str]) -> None:
        if not isinstance(space, Refining):
            raise StrategyError(f"space {quoted(space.name)} must refine to answer from winners alone")
        self._space, self._posterior = space, posterior
        rows = torch.stack([space.parse(key) for key in keys])
        shares = space.sparsity(rows)
        order = shares.argsort(stable=True)
        self._keys, self._rows, self._shares = [keys[place] for place in order.tolist()], rows[order], shares[order]
        self._costs: dict[int, Tensor] = {}

    def at(self, budgets: Sequence[float]) -> tuple[list[str | None], Tensor]:
        """The winners that meet budgets to a step, by their keys; else where those of the budgets before them lead.

        Returns:
            A key or None for each, and ``t x d``; each row is the same whatever is asked beside it.
        """
        keys: list[str | None] = []
        rows, led = [], {}
        for place, budget in enumerate(budgets):
            after = int(torch.searchsorted(self._shares, budget - _SLACK))
            met = after < len(self._keys) and bool(self._shares[after] < self._within(budget))
            start = after if met else max(after - 1, 0)
            keys.append(self._keys[start] if met else None)
            rows.append(self._rows[start])
            if not met:
                led[place] = self._costs_at(start)
        found = torch.stack(rows)
        if led:
            found[list(led)] = self._space.spent(torch.stack(list(led.values())), [budgets[place] for place in led])
        return keys, found

    def _costs_at(self, start: int) -> Tensor:
        if start not in self._costs:
            self._costs[start] = self._space.costs_at(self._posterior.mean, self._rows[start])
        return self._costs[start]

    def _within(self, budget: float) -> float:
        """Below which share a winner is a budget's: one step beyond it; where it is listed, the next listed one."""
        budgets = self._space.budgets
        if not any(abs(listed - budget) < _SLACK for listed in budgets):
            return budget + self._space.finest
        return min((listed for listed in budgets if listed > budget + _SLACK), default=1.0) - _SLACK

    def additive(self, budgets: Sequence[float]) -> Tensor | None:
        """What the units' own costs answer, added up, ``t x d``; None without a prior that has them."""
        return None if self._alone is None else self._space.spent(self._alone, budgets)

    @cached_property
    def _alone(self) -> Tensor | None:
        """What every choice of a unit costs by the prior, ``d x l``."""
        prior = self._posterior.prior
        dense = torch.zeros(self._rows.shape[1], dtype=torch.float64)
        if prior is None:
            return None
        # Of one and more: no floor hides what single units cost.
        return self._space.costs_at(lambda x: prior.total(x).log1p(), dense, self._space.longest)
