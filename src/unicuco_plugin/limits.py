"""Which sparsity a request comes down to: the share itself, or the least or most that its limits allow."""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import cached_property
from typing import NoReturn, TypeAlias

import torch

from unicuco_plugin.asked import Asked
from unicuco_plugin.costs.latency import under_load
from unicuco_plugin.costs.memory import ServedCosts
from unicuco_plugin.costs.model import CostModel, TableCosts
from unicuco_plugin.errors import RequestError, round_up
from unicuco_plugin.policy.contest import Candidate, Contest
from unicuco_plugin.request import Request
from unicuco_plugin.schemes import DENSE_BITS
from unicuco_plugin.spaces.space import Space

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
        costs: What strategies cost; under one load where ``space`` weighs units by what they free in memory.
        upper: The upper end of the interval of a candidate's divergence.
    """

    def __init__(self, space: Space, contest: Contest, costs: CostModel, upper: Callable[[Candidate], float]) -> None:
        self._space, self._contest, self._costs, self._upper = space, contest, costs, upper

    def budget_of(self, request: Request) -> float:
        """The sparsity that one request comes down to; see ``budgets_of``."""
        return self.budgets_of([request])[0]

    def budgets_of(self, requests: Sequence[Request]) -> list[float]:
        """The sparsities that requests come down to, each as if it were alone; a ``preference`` is left out.

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

    def ends(self, request: Request) -> tuple[float, float]:
        """The least and the most that the best of budgets cost of what a request limits, if it can be asked.

        No limit between them is refused: the best of the budget that removes most keeps it.
        """
        asked, [kind] = self._asked(request), request.kinds
        asked.split()
        first, last = self._contest.best([self._rungs[0], self._rungs[-1]])
        return asked.cost(kind, last), asked.cost(kind, first)

    def holds(self, request: Request, candidate: Candidate) -> bool:
        """Whether a candidate keeps every limit of a request."""
        within = request.max_divergence is None or self._upper(candidate) <= request.max_divergence
        return within and not self._asked(request).exceeded(candidate)

    def costs_of(self, request: Request) -> CostModel:
        """What strategies cost under a request's load, if it has one.

        Raises:
            RequestError: If the profile does not know what is kept, and has no times either.
        """
        if request.load is None or not isinstance(self._costs, TableCosts) or isinstance(self._costs, ServedCosts):
            return self._costs
        return under_load(self._costs, request.load)

    def _asked(self, request: Request) -> Asked:
        return Asked(request, self._space, self.costs_of(request))

    def _search(self, request: Request) -> _Search:
        """Yield budgets, hear of the best of each, and return the one that a request comes down to."""
        if request.sparsity is None and not request.limits:
            return (yield from self._within(request.max_divergence or math.inf))
        asked = self._asked(request)
        budget = yield from self._costing(asked)
        if request.max_divergence is None:
            return budget
        return (yield from self._both(asked, request.max_divergence, budget))

    def _costing(self, asked: Asked) -> _Search:
        """The least budget whose best keeps all limits on costs."""
        floor, counted = asked.split()
        if not counted:
            return floor
        if floor:
            best = yield floor
            if not asked.exceeded(best, counted):
                return floor
        if self._space.smooth:
            return (yield from self._just_within(asked, counted, floor))
        rungs = [(budget, best) for budget, best in zip(self._rungs, self._best, strict=True) if budget > floor]
        fits = [budget for budget, best in rungs if not asked.exceeded(best, counted)]
        if not fits:
            self._refuse(asked, counted, self._best)
        return (yield from self._next_within(asked, counted, floor, min(fits)))

    def _refuse(self, asked: Asked, counted: Mapping[str, tuple[str, float]], heard: Sequence[Candidate]) -> NoReturn:
        """Say which limit is too low, or which exclude each other; ``heard`` ends with the furthest that can be had."""
        last = "all units but one removed"
        if self._space.smooth:
            last = f"{self._rungs[-1]:.2%} of its units removed"
        if "bits" in asked.costs.names:
            last = f"{DENSE_BITS * (1.0 - self._rungs[-1]):.4g} mean bits"
        for kind, (_, limit) in counted.items():
            left = [asked.cost(kind, best) for best in heard]
            if min(left) > limit:
                bound, got = asked.bound(kind, left[-1]), getattr(asked.request, kind)
                raise RequestError(f"{kind} must be {bound} for this profile, with {last}, got {got}")
        give = asked.give(asked.exceeded(heard[-1], counted))
        raise RequestError(f"{' and '.join(counted)} exclude each other in this profile: with {last}, give {give}")

    def _next_within(
        self, asked: Asked, counted: Mapping[str, tuple[str, float]], floor: float, enough: float
    ) -> _Search:
        """The least share of whole units whose best keeps limits; ``enough`` is a budget that does."""
        total = self._space.params.sum().item()
        share = floor + _ONE / total if floor else -math.inf
        for cost, limit in counted.values():
            _, most = asked.costs.falls(cost)
            if not most:  # a plugin's units, whose weight nobody knows
                return enough
            share = max(share, (self._dense(asked, cost) - limit) / most)
        while (budget := self._space.reaching(share)) < enough - _ONE / total:
            best = yield budget
            if not asked.exceeded(best, counted):
                return budget
            share = budget + _ONE / total
        return enough

    def _just_within(self, asked: Asked, counted: Mapping[str, tuple[str, float]], floor: float) -> _Search:
        """The least share whose best keeps limits, to one step."""
        share, rates = max(floor, _LEAST), {}
        for kind, (cost, limit) in counted.items():
            about, most = asked.costs.falls(cost)
            rates[kind] = about or most
            share = max(share, (self._dense(asked, cost) - limit) / rates[kind])
        # The first listed budget from there on that keeps them bounds the search; those before it cannot.
        heard: list[Candidate] = []
        for enough in [rung for rung in self._rungs if rung >= share] or self._rungs[-1:]:
            heard.append((yield enough))
            if not asked.exceeded(heard[-1], counted):
                break
        else:
            self._refuse(asked, counted, heard)
        if len(heard) > 1:
            low = max(rung for rung in self._rungs if rung < enough)
            for kind, (cost, _) in counted.items():
                if not asked.costs.falls(cost)[0]:
                    fallen = asked.cost(kind, heard[-2]) - asked.cost(kind, heard[-1])
                    rates[kind] = max(fallen / (enough - low), _LEAST)
            share = max(share, low + max(asked.over(rates, heard[-2]), _LEAST))
        before, correction = math.inf, 0.0
        for _ in range(_CORRECTIONS):
            if share >= enough:
                break
            best = yield share
            over = asked.over(rates, best)
            if over <= 0:
                return share
            correction = 2.0 * correction if over >= before else max(over, _LEAST)
            share, before = share + correction, over
        return enough

    def _both(self, asked: Asked, divergence: float, budget: float) -> _Search:
        """The least budget from one on whose best is within a divergence too."""
        best = yield budget
        race = [(budget, best)] + [
            (rung, best)
            for rung, best in zip(self._rungs, self._best, strict=True)
            if rung > budget and not asked.exceeded(best)
        ]
        for rung, best in race:
            if self._upper(best) <= divergence:
                return rung
        furthest = yield from self._within(divergence)
        best = yield furthest
        exceeded = asked.exceeded(best)
        if not exceeded:
            return furthest
        least = min(self._upper(best) for _, best in race)
        raise RequestError(
            f"max_divergence {divergence:.6g} cannot be met with {' and '.join(exceeded)} in this profile: give "
            f"max_divergence {round_up(least)} ({least - divergence:.2g} more), or {asked.give(exceeded)}"
        )

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

    def _dense(self, asked: Asked, cost: str) -> float:
        return asked.costs.of(cost, torch.zeros(1, len(self._space.units), dtype=torch.float64)).item()
