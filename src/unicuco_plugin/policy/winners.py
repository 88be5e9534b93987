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

    def at(self, budget: float) -> tuple[str | None, Tensor]:
        """The winner that meets a budget to a step, with its key; else where the one of the budget before it leads."""
        after = int(torch.searchsorted(self._shares, budget - _SLACK))
        if after < len(self._keys) and self._shares[after] < self._within(budget):
            return self._keys[after], self._rows[after]
        start = max(after - 1, 0)
        if start not in self._costs:
            self._costs[start] = self._space.costs_at(self._posterior.mean, self._rows[start])
        return None, self._space.spent(self._costs[start], [budget])[0]

    def _within(self, budget: float) -> float:
        """Below which share a winner is that of a budget: a step beyond it, or where it was listed the next listed one."""
        budgets = self._space.budgets
        if not any(abs(listed - budget) < _SLACK for listed in budgets):
            return budget + self._space.finest
        return min((listed for listed in budgets if listed > budget + _SLACK), default=1.0) - _SLACK

    def additive(self, budget: float) -> Tensor | None:
        """What the units' own costs answer, added up; None without a prior that has them."""
        return None if self._alone is None else self._space.spent(self._alone, [budget])[0]

    @cached_property
    def _alone(self) -> Tensor | None:
        """What every choice of a unit costs by the prior, ``d x l``."""
        prior = self._posterior.prior
        dense = torch.zeros(self._rows.shape[1], dtype=torch.float64)
        return None if prior is None else self._space.costs_at(prior, dense, self._space.longest)
