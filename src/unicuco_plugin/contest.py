"""StratNet, the archive and the posterior's neighbours compete for every budget of a profile.

All budgets are worked out together, in a few matrix products, when the first is asked for.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor

from unicuco_plugin.profile import ArchiveEntry
from unicuco_plugin.search.evidence import Evidence
from unicuco_plugin.search.posterior import Posterior
from unicuco_plugin.search.stratnet import GRID, StratNet, preference_grid
from unicuco_plugin.spaces.space import Space
from unicuco_plugin.strategy import Source

__all__ = ["Candidate", "Contest", "safest"]

# Of GRID preferences, those whose own size is nearest to a budget are projected onto it.
_NEAREST = 16
# Neighbours of a budget's best: so many are screened by the posterior's slope, and the best of those join the race.
_SCREENED = 24
_NEIGHBOURS = 4


@dataclass(frozen=True)
class Candidate:
    """One strategy in the race.

    Attributes:
        x: ``d`` shares.
        source: Who proposed it.
        mean: Logarithm of its divergence on the ranking windows, where all candidates compare.
        std: Standard deviation of that.
        entry: Its archive entry, if it has one.
    """

    x: Tensor
    source: Source
    mean: float
    std: float
    entry: ArchiveEntry | None

    @property
    def cautious(self) -> float:
        """The mean and one standard deviation: among many predictions the lowest is the luckiest."""
        return self.mean + self.std


def safest(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate with the lowest cautious estimate; the first among equals."""
    return min(candidates, key=lambda candidate: candidate.cautious)


class Contest:
    """The race for each budget.

    Args:
        space: Of the strategies.
        net: StratNet.
        posterior: The surrogate.
        entries: The archive by the space's keys.
        evidence: What the second lot of ranking windows says.
    """

    def __init__(
        self,
        space: Space,
        net: StratNet,
        posterior: Posterior,
        entries: Mapping[str, ArchiveEntry],
        evidence: Evidence,
    ) -> None:
        self._space, self._net, self._posterior = space, net, posterior
        self._entries, self._evidence = entries, evidence

    @cached_property
    @torch.no_grad()
    def candidates(self) -> list[list[Candidate]]:
        """For every budget: the archive's strategies, StratNet's best, and a few neighbours of the best of those."""
        space = self._space
        found: list[list[Candidate]] = [[] for _ in space.budgets]
        rows = {key: space.parse(key) for key in self._entries}
        if rows:
            archive = torch.stack(list(rows.values()))
            distance = (space.sparsity(archive)[:, None] - torch.tensor(space.budgets, dtype=torch.float64)).abs()
            index = torch.where(distance.amin(-1) < 1e-9, distance.argmin(-1), -1)
            for budget, candidate in zip(index.tolist(), self.predict(archive, "archive"), strict=True):
                if budget >= 0:
                    found[budget].append(candidate)
        for race, candidate in zip(found, self._best_of(self._proposed()), strict=True):
            race.append(candidate)
        moves = self._neighbours(torch.stack([safest(race).x for race in found]))
        means = self._posterior.mean(torch.cat(moves)).split([len(part) for part in moves])
        best = [part[mean.argsort(stable=True)[:_NEIGHBOURS]] for part, mean in zip(moves, means, strict=True)]
        joining = iter(self.predict(torch.cat(best), "neighbour"))
        for race, part in zip(found, best, strict=True):
            race += [candidate for candidate in islice(joining, len(part)) if candidate.entry is None]
        return found

    @cached_property
    def best(self) -> list[Candidate]:
        """The winner of each budget."""
        return [safest(race) for race in self.candidates]

    def predict(self, x: Tensor, source: Source) -> list[Candidate]:
        """What all evidence says of ``p x d`` strategies."""
        if not len(x):
            return []
        entries = [self._entries.get(self._space.key(row)) for row in x]
        again = [math.log(entry.reranked) if entry and entry.reranked else math.nan for entry in entries]
        with torch.no_grad():
            predicted = self._posterior.log_predict(x)
        mean, std = self._evidence.weigh(*predicted, torch.tensor(again, dtype=torch.float64))
        return [
            Candidate(row, source, m, s, entry)
            for row, m, s, entry in zip(x, mean.tolist(), std.tolist(), entries, strict=True)
        ]

    def _proposed(self) -> list[Tensor]:
        """StratNet's distinct proposals for each budget."""
        scores = self._net(preference_grid(GRID))
        size = self._space.sparsity(scores.sigmoid())
        proposed = []
        for budget in self._space.budgets:
            rows = self._space.project(scores[(size - budget).abs().argsort(stable=True)[:_NEAREST]], budget)
            distinct = {row.numpy().tobytes(): index for index, row in enumerate(rows)}
            proposed.append(rows[list(distinct.values())])
        return proposed

    def _neighbours(self, starts: Tensor) -> list[Tensor]:
        """The moves from each start that the posterior's slope there likes best."""
        with torch.enable_grad():
            x = starts.clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(self._posterior.mean(x).sum(), x)
        screened = []
        for start, gradient in zip(starts, slope, strict=True):
            moves = self._space.neighbours(start[None])[0]
            screened.append(moves[(moves @ gradient).argsort(stable=True)[:_SCREENED]])
        return screened

    def _best_of(self, groups: Sequence[Tensor]) -> list[Candidate]:
        candidates = iter(self.predict(torch.cat(list(groups)), "stratnet"))
        return [safest([next(candidates) for _ in group]) for group in groups]
