"""Measuring through the journal: nothing is used before it is durable, and nothing is measured twice.

What was measured is journaled as it is; what the search gets is floored (``floor``), so that it has a logarithm.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol

from torch import Tensor, stack

from unicuco_plugin.errors import PluginError, UnicucoError
from unicuco_plugin.journal.journal import Journal, Measurement
from unicuco_plugin.journal.once import measure_once
from unicuco_plugin.objectives.floor import floored
from unicuco_plugin.objectives.objective import Evaluation, Objective, Report, evaluate_reporting
from unicuco_plugin.objectives.room import Room
from unicuco_plugin.spaces.space import Named

__all__ = ["CONFIRM", "RANK", "RERANK", "JournaledMeasure", "Measure"]

# The fidelities: which windows a strategy is measured on.
CONFIRM, RANK, RERANK = "confirm", "rank", "rerank"


class Measure(Protocol):
    """Measures strategies durably: whatever it returns is already in the journal, its value at least ``LEAST``."""

    def __call__(self, fidelity: str, X: Tensor, report: Callable[[int], None]) -> list[Measurement]:
        """Measure ``n x d`` strategies at one fidelity; calls ``report`` with how many are done."""
        ...


class JournaledMeasure:
    """Measures strategies in fixed batches, each one transaction; a batch that is journaled is read, not run.

    Args:
        journal: The open journal.
        space: Names the strategies.
        objectives: Makes the objective of each fidelity; called when it is first needed.
        batch: Strategies a batch. A killed run loses at most one.
        say: Told when memory has room for fewer of them at a time.
    """

    def __init__(
        self,
        journal: Journal,
        space: Named,
        objectives: Mapping[str, Callable[[], Objective]],
        batch: int,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._journal = journal
        self._space = space
        self._makers = objectives
        self._made: dict[str, Objective] = {}
        self._batch = batch
        self._rooms = {fidelity: Room(say) for fidelity in objectives}

    def __call__(self, fidelity: str, X: Tensor, report: Callable[[int], None]) -> list[Measurement]:
        """Measure ``n x d`` strategies; see ``Measure``."""
        rows: list[Measurement] = []
        for part in X.split(self._batch):
            report(len(rows))
            keys = [self._space.key(row) for row in part]
            measure = partial(self._evaluate, fidelity, part, partial(self._within, report, len(rows)))
            found = measure_once(self._journal, fidelity, keys, measure)
            rows += [replace(row, value=floored(row.value)) for row in found]
        report(len(rows))
        return rows

    @staticmethod
    def _within(report: Callable[[int], None], before: int, count: int) -> Report:
        """Whole strategies of a batch as they are done; the last one is when all are in the journal."""
        told = 0

        def tell(done: float) -> None:
            nonlocal told
            whole = min(int(done + 1e-9), count - 1)
            if whole > told:
                told = whole
                report(before + whole)

        return tell

    def _evaluate(
        self, fidelity: str, X: Tensor, within: Callable[[int], Report], places: list[int]
    ) -> list[Evaluation]:
        """Ask the objective, which may be a stranger's."""
        if fidelity not in self._made:
            self._made[fidelity] = self._makers[fidelity]()
        objective = self._made[fidelity]
        try:
            return self._rooms[fidelity].measure(
                lambda rows, report: evaluate_reporting(objective, stack(list(rows)), report),
                list(X[places]),
                within(len(places)),
            )
        except UnicucoError:
            raise
        except Exception as error:
            raise PluginError(f"the objective failed on {len(places)} strategies: {error}") from error
