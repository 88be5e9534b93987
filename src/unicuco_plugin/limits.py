"""Which sparsity a request comes down to: the share itself, or the least or most that a limit allows."""

import math
from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from typing import TypeAlias

import torch

from unicuco_plugin.costs.model import CostModel
from unicuco_plugin.errors import RequestError, round_up
from unicuco_plugin.policy.contest import Candidate, Contest
from unicuco_plugin.request import Request
from unicuco_plugin.schemes import DENSE_BITS
from unicuco_plugin.spaces.space import Space
from unicuco_plugin.traits import traits_of

__all__ = ["Limits"]

_Search: TypeAlias = Generator[float, Candidate, float]

# Halvings of a step between budgets of a smooth space: a twentieth comes down to 0.0004.
_BISECTIONS = 7
# Corrections of a share by what its best strategy leaves too much: biases differ from strategy to strategy, by a few
# hundredths of a per cent. Where that changes nothing, as within a step, the correction is doubled.
_CORRECTIONS = 30
# The least correction, a tenth of a parameter in a million.
_LEAST = 1e-7
# Parameters: more than rounding leaves of a share, and less than any two totals of whole units differ by.
_ONE = 0.5


class Limits:
    """Turns requests into budgets, by what the best strategies of budgets leave.

    Args:
        space: Of the strategies.
        contest: Knows the best of each budget.
        costs: What strategies cost.
        upper: The upper end of the interval of a candidate's divergence.
    """

    def __init__(self, space: Space, contest: Contest, costs: CostModel, upper: Callable[[Candidate], float]) -> None:
        self._space, self._contest, self._costs, self._upper = space, contest, costs, upper

    def budget_of(self, request: Request) -> float:
        """The sparsity that one request comes down to; see ``budgets_of``."""
        return self.budgets_of([request])[0]

    def budgets_of(self, requests: Sequence[Request]) -> list[float]:
        """The sparsities that requests come down to, each as if it were alone; not for ``preference``.

        Raises:
            RequestError: If one cannot be met; the message says what can.
        """
        found = dict.fromkeys(range(len(requests)), math.nan)
        searches = {place: self._search(request) for place, request in enumerate(requests)}
        heard: dict[int, Candidate | None] = dict.fromkeys(searches)
        while heard:  # all that still search look at one more budget each, together
            asked: dict[int, float] = {}
            for place, best in heard.items():
                try:
                    asked[place] = next(searches[place]) if best is None else searches[place].send(best)
                except StopIteration as end:
                    found[place] = end.value
            heard = dict(zip(asked, self._contest.best(list(asked.values())), strict=True))
        return list(found.values())

    def _search(self, request: Request) -> _Search:
        """Yield budgets, hear of the best of each, and return the one that a request comes down to."""
        if request.sparsity is not None:
            return self._space.reaching(self._removable(request.sparsity))
        if request.max_divergence is not None:
            return (yield from self._within(request.max_divergence))
        cost, limit = request.limit or ("", 0.0)
        if cost not in self._costs.names:
            raise RequestError(
                f"{request.kind} cannot be asked of this profile, which knows {', '.join(self._costs.names)} of a "
                f"strategy; ask for {self._instead} or max_divergence"
            )
        share = self._costs.share(cost, limit)
        if share is not None:
            return self._space.reaching(share)
        if not self._space.physical:
            raise RequestError(
                f"{request.kind} cannot be asked of space {self._space.name!r}: zeros in a dense file do not shrink "
                "it; ask for sparsity or max_divergence"
            )
        left = [self._cost(cost, best) for best in self._best]
        fits = [budget for budget, found in zip(self._rungs, left, strict=True) if found <= limit]
        if not fits:
            last = "all units but one removed"
            if self._space.smooth:
                last = f"{self._rungs[-1]:.2%} of its units removed"
            if "bits" in self._costs.names:
                last = f"{DENSE_BITS * (1.0 - self._rungs[-1]):.4g} mean bits"
            raise RequestError(f"{request.kind} must be at least {left[-1]} for this profile, with {last}, got {limit}")
        within = self._just_within if self._space.smooth else self._next_within
        return (yield from within(limit, cost, min(fits)))

    @property
    def _instead(self) -> str:
        return "bits" if "bits" in self._costs.names else "sparsity"

    def _removable(self, sparsity: float) -> float:
        """Refuse to remove a share where bits are what is counted."""
        if "bits" in self._costs.names:
            why = "counts bits" if traits_of(self._space.name).whole else "removes no weight"
            raise RequestError(
                f"sparsity cannot be asked of space {self._space.name!r}, which {why}; ask for {self._instead} or "
                f"max_bytes, got {sparsity:.6g}"
            )
        return sparsity

    def _next_within(self, limit: float, cost: str, enough: float) -> _Search:
        """The least share of whole units whose best leaves no more than a limit; ``enough`` is a budget that does."""
        _, most = self._costs.falls(cost)
        if not most:  # a plugin's units, whose weight nobody knows
            return enough
        total = self._space.params.sum().item()
        share = (self._dense(cost) - limit) / most
        while (budget := self._space.reaching(share)) < enough - _ONE / total:
            best = yield budget
            if self._cost(cost, best) <= limit:
                return budget
            share = budget + _ONE / total
        return enough

    def _just_within(self, limit: float, cost: str, enough: float) -> _Search:
        """The least share whose best leaves no more than a limit, to one step; ``enough`` is a budget that does."""
        unit, _ = self._costs.falls(cost)
        share = max((self._dense(cost) - limit) / unit, _LEAST)
        before, correction = math.inf, 0.0
        for _ in range(_CORRECTIONS):
            if share >= enough:
                break
            best = yield share
            over = self._cost(cost, best) - limit
            if over <= 0:
                return share
            correction = 2.0 * correction if over >= before else max(over / unit, _LEAST)
            share, before = share + correction, over
        return enough

    def _within(self, divergence: float) -> _Search:
        """The largest budget whose best has its interval's upper end within so many nats per token."""
        budgets = self._rungs
        uppers = [self._upper(best) for best in self._best]
        fits = [index for index, upper in enumerate(uppers) if upper <= divergence]
        if not fits:
            raise RequestError(
                f"max_divergence must be at least {round_up(min(uppers))} nats per token for this profile, the upper "
                f"end of its least harmful strategy's interval, got {divergence}"
            )
        low = budgets[fits[-1]]
        if not self._space.smooth or fits[-1] == len(budgets) - 1:
            return low
        high = budgets[fits[-1] + 1]
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            best = yield middle
            low, high = (middle, high) if self._upper(best) <= divergence else (low, middle)
        return low

    @cached_property
    def _rungs(self) -> tuple[float, ...]:
        """The space's budgets, and the most that can be removed where units or steps end above the last of them."""
        budgets, most = self._space.budgets, self._space.most
        whole = self._space.stepped or not self._space.smooth
        return (*budgets, most) if whole and most > budgets[-1] else budgets

    @cached_property
    def _best(self) -> list[Candidate]:
        """At each of them."""
        return self._contest.best(self._rungs)

    def _cost(self, name: str, candidate: Candidate) -> int:
        return int(self._costs.of(name, candidate.x[None]))

    def _dense(self, name: str) -> int:
        return int(self._costs.of(name, torch.zeros(1, len(self._space.units), dtype=torch.float64)))
