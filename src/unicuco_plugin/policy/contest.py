"""StratNet, the archive and the posterior's neighbours compete for every budget.

The one rule of who is best: training confirms its winners, and a profile answers with them.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from unicuco_plugin.policy.candidate import Candidate, safest
from unicuco_plugin.policy.descent import descend, descend_alike, move_onto
from unicuco_plugin.policy.evidence import Evidence
from unicuco_plugin.policy.posterior import Posterior
from unicuco_plugin.policy.stratnet import GRID, StratNet, preference_grid
from unicuco_plugin.policy.winners import Winners
from unicuco_plugin.spaces.space import Refining, Space
from unicuco_plugin.strategy import Source

__all__ = ["Candidate", "Contest", "safest"]

# Of GRID preferences, so many whose own size is nearest to a budget are projected onto it. Fewer than all, with the
# screening below, took 64 requests from 98 to 25 ms.
_NEAREST = 16
# Neighbours of a budget's best: so many are screened by the posterior's slope, and the best few of those join the
# contest. Choices for the same speed, not tuned.
_SCREENED, _NEIGHBOURS = 24, 4
# At a budget that the space does not list, so many of each listed budget beside it are moved there: moving may change
# their order. A choice, not a measurement.
_BESIDE = 5
# Answers between winners are sought so many together, and predicted so many; descents of smooth spaces, too.
_TOGETHER, _ALIKE = 256, 16
# Budgets whose races are kept, and of how many the winner: a server is asked for new ones without end. A race is some
# ten strategies; limits on divergence halve the steps between budgets, and meet the same ones again and again.
_KEPT, _WON = 128, 8_192
# What an unconfirmed strategy must promise beyond a confirmed one, in log divergence: in a smooth space descents always
# find a little more, and two per cent of a prediction are not worth giving up a measurement.
_MARGIN = 0.02
# How far a strategy that the journal rounded may be from its budget: the journal's own step for shares. Whole steps
# are journaled as they are.
_ROUNDING = 1e-4


_Found = TypeVar("_Found")


class Contest:
    """The race for each budget.

    Args:
        space: Of the strategies.
        net: StratNet.
        posterior: The surrogate.
        archive: Divergence on the second lot of ranking windows, by the space's keys, of every strategy that is known;
            None where it was not measured on these.
        evidence: How both lots compare.
        confirmed: Keys of the strategies that were measured on windows of their own.
    """

    def __init__(
        self,
        space: Space,
        net: StratNet,
        posterior: Posterior,
        archive: Mapping[str, float | None],
        evidence: Evidence,
        *,
        confirmed: Collection[str] = (),
    ) -> None:
        self._space, self._net, self._posterior = space, net, posterior
        self._known, self._evidence, self._confirmed = archive, evidence, confirmed
        self._races: dict[float, list[Candidate]] = {}
        self._won: dict[float, Candidate] = {}

    def candidates(self, budgets: Sequence[float]) -> list[list[Candidate]]:
        """For every budget: the archive's strategies, StratNet's best, and a few neighbours of the best of those.

        Matrix products of other shapes round differently, and answers must not depend on their company. So budgets of
        a smooth space descend in groups of one size, filled up, and are worked out alone but for that; all that another
        space lists are worked out together, whichever are asked for, and one that it can meet and does not list alone.
        """
        new = [budget for budget in dict.fromkeys(budgets) if budget not in self._races]
        races = {budget: self._races[budget] for budget in budgets if budget in self._races}
        for together in self._groups(new):
            run = self._settle if self._settled else self._run
            races |= zip(together, run(together), strict=True)
        _keep(self._races, {budget: races[budget] for budget in new}, _KEPT)
        return [races[budget] for budget in budgets]

    @property
    def _settled(self) -> bool:
        """Whether winners were confirmed, between which answers are sought; see :class:`Winners`."""
        return bool(self._confirmed) and isinstance(self._space, Refining)

    def _groups(self, new: Sequence[float]) -> list[Sequence[float]]:
        """Which budgets are worked out together."""
        if self._settled or self._space.smooth:
            size = _TOGETHER if self._settled else _ALIKE
            return [new[start : start + size] for start in range(0, len(new), size)]
        listed = self._space.budgets
        groups: list[Sequence[float]] = [listed] if any(budget in listed for budget in new) else []
        return [*groups, *((budget,) for budget in new if budget not in listed)]

    def _settle(self, budgets: Sequence[float]) -> list[list[Candidate]]:
        """The races for budgets once the winners of the listed ones were confirmed; see :class:`Winners`."""
        keys, rows = self._winners.at(budgets)
        additive = self._winners.additive(budgets)
        led = [place for place, key in enumerate(keys) if key is None]
        told = [place for place, key in enumerate(keys) if key is not None]
        found = self._predict_alike(rows[told], "archive", [key for key in keys if key is not None])
        found += self._predict_alike(rows[led], "neighbour")
        races = {place: [candidate] for place, candidate in zip(told + led, found, strict=True)}
        if additive is not None:
            for place, candidate in zip(led, self._predict_alike(additive[led], "additive"), strict=True):
                races[place].append(candidate)
        return [races[place] for place in range(len(budgets))]

    def _predict_alike(self, x: Tensor, source: Source, keys: Sequence[str] | None = None) -> list[Candidate]:
        """As ``predict``, in products of one shape, so that no row depends on its company."""
        keys = keys or [self._space.key(row) for row in x]
        found: list[Candidate] = []
        for start in range(0, len(x), _ALIKE):
            part, own = x[start : start + _ALIKE], list(keys[start : start + _ALIKE])
            lacking = _ALIKE - len(part)
            part = torch.cat([part, part[:1].expand(lacking, -1)])
            found += self.predict(part, source, own + own[:1] * lacking)[: len(own)]
        return found

    @cached_property
    def _winners(self) -> Winners:
        return Winners(self._space, self._posterior, [key for key in self._known if key in self._confirmed])

    def best(self, budgets: Sequence[float]) -> list[Candidate]:
        """The winner of each budget."""
        new = [budget for budget in dict.fromkeys(budgets) if budget not in self._won]
        won = {budget: self._won[budget] for budget in budgets if budget in self._won}
        won |= zip(new, map(self.winner, self.candidates(new)), strict=True)
        _keep(self._won, {budget: won[budget] for budget in new}, _WON)
        return [won[budget] for budget in budgets]

    def winner(self, race: Sequence[Candidate]) -> Candidate:
        """The safest candidate, but one that was confirmed where none other promises clearly more."""
        best = safest(race)
        confirmed = [candidate for candidate in race if candidate.key in self._confirmed]
        if confirmed and safest(confirmed).cautious < best.cautious + _MARGIN:
            return safest(confirmed)
        return best

    @torch.no_grad()
    def _run(self, budgets: Sequence[float]) -> list[list[Candidate]]:
        found = [self._standing(budget) for budget in budgets]
        proposed = self._split("stratnet", self._proposed(budgets))
        for race, candidates in zip(found, proposed, strict=True):
            race.append(safest(candidates))
        best = self._neighbours([safest(race).x for race in found], budgets)
        if not self._space.smooth:
            means = self._posterior.mean(torch.cat(best)).split([len(part) for part in best])
            best = [part[mean.argsort(stable=True)[:_NEIGHBOURS]] for part, mean in zip(best, means, strict=True)]
        for race, candidates in zip(found, self._split("neighbour", best), strict=True):
            race += [candidate for candidate in candidates if candidate.key not in self._known]
        return found

    def _standing(self, budget: float) -> list[Candidate]:
        """The archive's strategies at a budget; where only rounding was undone they keep their identity."""
        rows = self._archive[self._space.near(self._archive, budget)]
        if not self._space.smooth and budget not in self._space.budgets:
            return self.predict(rows, "archive") + self.predict(self._between(budget), "neighbour")
        if not len(rows):
            return []
        exact = (self._space.sparsity(rows) - budget).abs() < (0.0 if self._space.stepped else _ROUNDING)
        moved = self._space.moved(rows, budget)
        names = [self._space.key(a if same else b) for a, b, same in zip(rows, moved, exact.tolist(), strict=True)]
        return self.predict(moved, "archive", names)

    def _between(self, budget: float) -> Tensor:
        """Where the archive's best of the listed budgets on either side lead, at a budget that is not listed."""
        budgets = self._space.budgets
        begin = [self._archive[:0]]
        for beside in (*[b for b in budgets if b < budget][-1:], *[b for b in budgets if b > budget][:1]):
            rows = self._archive[self._space.near(self._archive, beside)]
            if len(rows):
                best = rows[self._posterior.mean(rows).argsort(stable=True)[:_BESIDE]]
                begin.append(move_onto(self._posterior, self._space, best, budget))
        return descend(self._posterior, self._space, torch.cat(begin), budget)

    def _split(self, source: Source, groups: Sequence[Tensor]) -> list[list[Candidate]]:
        """Predict all groups at once; those of a smooth space each in a product of its own, see ``candidates``."""
        if self._space.smooth:
            return [self.predict(group, source) for group in groups]
        candidates = iter(self.predict(torch.cat(list(groups)), source))
        return [list(islice(candidates, len(group))) for group in groups]

    def predict(self, x: Tensor, source: Source, keys: Sequence[str] | None = None) -> list[Candidate]:
        """What all evidence says about ``p x d`` strategies, known by their own keys or by those given."""
        if not len(x):
            return []
        keys = keys or [self._space.key(row) for row in x]
        again = [math.log(self._known.get(key) or math.nan) for key in keys]
        with torch.no_grad():
            predicted = self._posterior.log_predict(x)
        mean, std = self._evidence.weigh(*predicted, torch.tensor(again, dtype=torch.float64))
        return [
            Candidate(row, source, m, s, key)
            for row, m, s, key in zip(x, mean.tolist(), std.tolist(), keys, strict=True)
        ]

    @cached_property
    def _archive(self) -> Tensor:
        rows = [self._space.parse(key) for key in self._known]
        return torch.stack(rows) if rows else torch.empty(0, len(self._space.units), dtype=torch.float64)

    @cached_property
    def _scores(self) -> Tensor:
        return self._net(preference_grid(GRID))

    def _proposed(self, budgets: Sequence[float]) -> list[Tensor]:
        """StratNet's distinct proposals for each budget."""
        size = self._space.sparsity(self._scores.sigmoid())
        proposed = []
        for budget in budgets:
            near = self._scores[(size - budget).abs().argsort(stable=True)[:_NEAREST]]
            rows = self._space.project(near, budget)
            distinct = {row.numpy().tobytes(): index for index, row in enumerate(rows)}
            proposed.append(rows[list(distinct.values())])
        return proposed

    def _neighbours(self, starts: Sequence[Tensor], budgets: Sequence[float]) -> list[Tensor]:
        """Where each start leads: down the posterior of a smooth space, else the moves that its slope likes best."""
        if self._space.smooth:
            x = torch.stack(list(starts))
            return list(descend_alike(self._posterior, self._space, x, budgets, kappa=1.0, count=_ALIKE)[:, None])
        with torch.enable_grad():
            x = torch.stack(list(starts)).requires_grad_(True)
            (slope,) = torch.autograd.grad(self._posterior.mean(x).sum(), x)
        screened = []
        for start, gradient in zip(starts, slope, strict=True):
            moves = self._space.neighbours(start[None])[0]
            screened.append(moves[(moves @ gradient).argsort(stable=True)[:_SCREENED]])
        return screened


def _keep(known: dict[float, _Found], new: Mapping[float, _Found], most: int) -> None:
    """Remember what was found, and forget what was found first."""
    known |= new
    for old in list(known)[:-most]:
        del known[old]
