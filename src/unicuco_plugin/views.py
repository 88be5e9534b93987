"""Who answers the requests of a profile: a race for shares of weights, and one for each load of a server.

Where units go part by part, a limit on memory is met best by a space whose units weigh what they free in memory: it
takes head groups rather than neurons where the cache is large. The surrogate and StratNet are the same.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property

from unicuco_plugin.costs.memory import MEMORY, ServedCosts
from unicuco_plugin.costs.model import TableCosts
from unicuco_plugin.divergences import Divergences
from unicuco_plugin.limits import Limits
from unicuco_plugin.plugins.manager import make_space
from unicuco_plugin.policy.contest import Contest
from unicuco_plugin.policy.evidence import Evidence
from unicuco_plugin.policy.posterior import Posterior
from unicuco_plugin.policy.scalarization import Scaling
from unicuco_plugin.policy.stratnet import StratNet
from unicuco_plugin.preferences import Preferences
from unicuco_plugin.profile_record import ProfileRecord
from unicuco_plugin.quantities import Load
from unicuco_plugin.request import Request
from unicuco_plugin.spaces.space import Space

__all__ = ["View", "Views", "record_space"]

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
        record.space, record.units, weights, record.bounds, sizes.parts, needed=record.needed, choices=sizes.choices
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
    _served: OrderedDict[Load, View] = field(default_factory=OrderedDict)

    def of(self, request: Request) -> View:
        """Who answers a request.

        Raises:
            RequestError: If it asks for memory, and the profile does not know what is kept.
        """
        load = request.load
        if load is None or (request.max_memory is None and MEMORY not in (request.over or ())):
            return self.main
        costs = ServedCosts.under(self.costs, load)
        if costs.prices is None:
            return self.main
        found = self._served.get(load)
        if found is None:
            space = record_space(self.record, costs.prices)
            found = self._served[load] = self._view(space, self._contest(space))
            while len(self._served) > _MOST:
                self._served.popitem(last=False)
        return found

    @cached_property
    def main(self) -> View:
        """The race for shares of weights."""
        return self._view(self.space, self._main)

    @cached_property
    def divergences(self) -> Divergences:
        """What is known of the divergences of strategies."""
        return Divergences(self.record, self.space, self._main)

    @cached_property
    def _main(self) -> Contest:
        return self._contest(self.space)

    def _view(self, space: Space, contest: Contest) -> View:
        limits = Limits(space, contest, self.costs, self.divergences.upper)
        return View(contest, limits, Preferences(self.record, self.scaling, space, self.net, contest, limits))

    def _contest(self, space: Space) -> Contest:
        archive = {entry.strategy: entry.reranked for entry in self.record.archive}
        evidence = Evidence(self.record.reranked_shift, self.record.noise)
        confirmed = {entry.strategy for entry in self.record.archive if entry.confirmed}
        return Contest(space, self.net, self.posterior, archive, evidence, confirmed=confirmed)
