"""Who answers the requests of a profile: a race for shares of weights, and one for each load of a server.

Where units go part by part, a limit on memory is met best by a space whose units weigh what they free in memory: it
takes head groups rather than neurons where the cache is large. So is one on time. The surrogate and StratNet are the
same.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import torch

from unicuco_plugin.costs.latency import LATENCY, TIME, under_load
from unicuco_plugin.costs.memory import MEMORY
from unicuco_plugin.costs.model import CostModel, TableCosts
from unicuco_plugin.costs.untimed import why_untimed
from unicuco_plugin.divergences import Divergences
from unicuco_plugin.errors import RequestError
from unicuco_plugin.limits import Limits
from unicuco_plugin.plugins.manager import make_space
from unicuco_plugin.policy.contest import Candidate, Contest
from unicuco_plugin.policy.evidence import Evidence
from unicuco_plugin.policy.posterior import Posterior
from unicuco_plugin.policy.scalarization import Scaling
from unicuco_plugin.policy.stratnet import StratNet
from unicuco_plugin.preferences import Preferences
from unicuco_plugin.profile_record import ProfileRecord
from unicuco_plugin.quantities import Load
from unicuco_plugin.request import LIMITS, Request
from unicuco_plugin.spaces.space import Space
from unicuco_plugin.threads import one_thread

__all__ = ["View", "Views", "record_space"]

# What units may be priced by: the first of them that is asked.
_PRICED = (MEMORY, LATENCY, TIME)
# Loads whose races are remembered; a race at one budget takes a good part of a second.
_MOST = 8


def record_space(record: ProfileRecord, prices: tuple[int, ...] | None = None) -> Space:
    """The space of a profile's strategies.

    Args:
        record: What the profile says of itself.
        prices: What units weigh instead of their parameters.

    Raises:
        UnknownNameError: If no plugin provides it.
    """
    sizes = record.sizes
    weights = sizes.unit_params if prices is None else prices
    return make_space(
        record.space,
        record.units,
        weights,
        record.bounds,
        sizes.parts,
        needed=record.needed,
        choices=sizes.choices,
        physical=any(sizes.unit_bytes),  # what leaves by itself weighs something without its block
    )


@dataclass(frozen=True)
class View:
    """One race, what limits come down to in it, and what preferences take.

    Attributes:
        contest: Knows the best of each budget.
        limits: Turn requests into budgets.
        preferences: Choose among the best.
    """

    contest: Contest
    limits: Limits
    preferences: Preferences

    def answers(self, requests: Sequence[Request]) -> list[Candidate]:
        """The best for each request; what they share is computed once.

        Raises:
            RequestError: If one cannot be met.
        """
        limited = [place for place, request in enumerate(requests) if request.limited]
        budgets = self.limits.budgets_of([requests[place] for place in limited])
        found = dict(zip(limited, self.contest.best(budgets), strict=True))
        return [
            found[place] if request.preference is None else self.preferences.choose(request, found.get(place))
            for place, request in enumerate(requests)
        ]


@dataclass(frozen=True)
class Views:
    """The races of one profile.

    Attributes:
        record: What the profile says of itself.
        space: Of its strategies.
        net: StratNet.
        posterior: The surrogate.
        scaling: Of size and divergence, as in training.
        costs: What strategies cost.
    """

    record: ProfileRecord
    space: Space
    net: StratNet
    posterior: Posterior
    scaling: Scaling
    costs: TableCosts
    _served: OrderedDict[tuple[Load, str], View] = field(default_factory=OrderedDict)

    def answers(self, requests: Sequence[Request]) -> list[Candidate]:
        """The best for each request, in order.

        Where the best by weights keeps a limit on memory or time unasked, that limit changes nothing.

        Raises:
            RequestError: If one cannot be met, or asks for memory or time of a profile that does not know it.
        """
        views = [self.of(request) for request in requests]
        free = {place: _free(request) for place, request in enumerate(requests) if views[place] is not self.main}
        found = {
            place: best
            for place, best in self._met({place: request for place, request in free.items() if request}).items()
            if self.main.limits.holds(requests[place], best)
        }
        by_view: dict[int, list[int]] = {}
        for place, view in enumerate(views):
            if place not in found:
                by_view.setdefault(id(view), []).append(place)
        for places in by_view.values():
            own = [requests[place] for place in places]
            found |= zip(places, views[places[0]].answers(own), strict=True)
        return [found[place] for place in range(len(requests))]

    def _met(self, requests: Mapping[int, Request]) -> dict[int, Candidate]:
        """The best by weights for those requests that can be met."""
        try:
            return dict(zip(requests, self.main.answers(list(requests.values())), strict=True))
        except RequestError:
            if len(requests) == 1:
                return {}
            return {place: best for one in requests for place, best in self._met({one: requests[one]}).items()}

    def ends(self, cost: str, load: Load) -> tuple[float, float]:
        """The least and the most that can be asked of a cost, in the race that answers; see :meth:`Limits.ends`.

        Raises:
            RequestError: If a limit on it cannot be asked under that load.
        """
        request = _limiting(cost, load)
        return self.of(request).limits.ends(request)

    def front(self, load: Load | None = None, cost: str = "") -> tuple[list[float], list[Candidate]]:
        """The best of each budget, with the share that it removes, or budgets ask it to.

        Args:
            load: See ``cost``.
            cost: Whose race it is, where units are priced by it under the load; that of weights if it is empty.

        Raises:
            RequestError: If a limit on the cost cannot be asked under that load.
        """
        view = self.main
        if cost and load is not None:
            self.ends(cost, load)
            view = self.of(_limiting(cost, load))
        best = view.contest.best(view.preferences.space.budgets)
        if view is self.main:
            return list(self.space.budgets), best
        return self.space.sparsity(torch.stack([candidate.x for candidate in best])).tolist(), best

    def of(self, request: Request) -> View:
        """Who answers a request.

        Raises:
            RequestError: If it asks for memory of a profile that does not know what is kept, or for times of a load
                that was not measured.
        """
        load, price = request.load, next((name for name in _PRICED if name in request.costs), "")
        if load is None or not price or (price != MEMORY and why_untimed(self.costs)):
            return self.main
        costs = under_load(self.costs, load, price)
        if costs.prices is None:
            return self.main
        found = self._served.get((load, price))
        if found is None:
            space = record_space(self.record, costs.prices)
            # What is priced alike is one race, as one more token's time and the speed of writing.
            alike = [view.contest for view in list(self._served.values()) if view.preferences.space == space]
            found = self._served[load, price] = self._view(space, alike[0] if alike else self._contest(space), costs)
            while len(self._served) > _MOST:
                self._served.popitem(last=False)
        with suppress(KeyError):  # which another thread may have dropped by now
            self._served.move_to_end((load, price))
        return found

    @cached_property
    def main(self) -> View:
        """The race for shares of weights."""
        return self._view(self.space, self._main, self.costs)

    @cached_property
    def divergences(self) -> Divergences:
        """What is known of the divergences of strategies."""
        return Divergences(self.record, self.space, self._main)

    @cached_property
    def _main(self) -> Contest:
        return self._contest(self.space)

    def _view(self, space: Space, contest: Contest, costs: CostModel) -> View:
        limits = Limits(space, contest, costs, self.divergences.upper)
        return View(contest, limits, Preferences(self.record, self.scaling, space, self.net, contest, limits))

    @one_thread()
    def _contest(self, space: Space) -> Contest:
        archive = {entry.strategy: entry.reranked for entry in self.record.archive}
        evidence = Evidence(self.record.reranked_shift, self.record.noise)
        confirmed = {entry.strategy for entry in self.record.archive if entry.confirmed}
        return Contest(space, self.net, self.posterior, archive, evidence, confirmed=confirmed)


def _limiting(cost: str, load: Load) -> Request:
    """Some request that limits a cost under a load."""
    kind = next(kind for kind, limit in LIMITS.items() if limit.cost == cost)
    return Request.of(**{kind: LIMITS[kind].number(2)}, **load.to_fields(phase=cost == TIME))


def _free(request: Request) -> Request | None:
    """The request without its limits on memory and time; None where nothing else says how much has to go."""
    priced = dict.fromkeys(kind for kind, (cost, _) in request.limits.items() if cost in _PRICED)
    free = request.model_copy(update=priced)
    asked = free.limits or free.sparsity is not None or free.preference is not None
    return free if asked and not {*_PRICED} & {*(request.over or ())} else None
