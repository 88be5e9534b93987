"""Measuring through the journal: nothing is used before it is durable, and nothing is measured twice.

What was measured is journaled as it is; what the search gets is floored (``floor``), so that it has a logarithm.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from torch import Tensor, stack

from unicuco_plugin.errors import PluginError, UnicucoError, clip
from unicuco_plugin.journal.journal import Journal, Measurement
from unicuco_plugin.objectives.floor import floored
from unicuco_plugin.objectives.objective import Evaluation, Objective, Report, evaluate_reporting
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
    """

    def __init__(
        self, journal: Journal, space: Named, objectives: Mapping[str, Callable[[], Objective]], batch: int
    ) -> None:
        self._journal = journal
        self._space = space
        self._makers = objectives
        self._made: dict[str, Objective] = {}
        self._batch = batch

    def __call__(self, fidelity: str, X: Tensor, report: Callable[[int], None]) -> list[Measurement]:
        """Measure ``n x d`` strategies; see ``Measure``."""
        rows: list[Measurement] = []
        for part in X.split(self._batch):
            report(len(rows))
            keys = [self._space.key(row) for row in part]
            known = self._journal.lookup(fidelity, keys)
            new = {key: row for key, row in zip(keys, part, strict=True) if key not in known}
            if new:
                fresh = self._run(fidelity, new, self._within(report, len(rows), len(new)))
                self._journal.record(fresh)
                known |= {row.key: row for row in fresh}
            rows += [replace(known[key], value=floored(known[key].value)) for key in keys]
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

    def _run(self, fidelity: str, new: Mapping[str, Tensor], report: Report) -> list[Measurement]:
        if fidelity not in self._made:
            self._made[fidelity] = self._makers[fidelity]()
        evaluations = self._evaluate(fidelity, stack(list(new.values())), report)
        for key, evaluation in zip(new, evaluations, strict=True):
            if not (math.isfinite(evaluation.value) and evaluation.value >= 0.0):
                raise PluginError(
                    f"an objective's value must be finite and at least 0, got {evaluation.value} for {clip(key)}"
                )
        return [
            Measurement(key, fidelity, e.value, e.per_window, e.tokens, e.seconds)
            for key, e in zip(new, evaluations, strict=True)
        ]

    def _evaluate(self, fidelity: str, X: Tensor, report: Report) -> list[Evaluation]:
        """Ask the objective, which may be a stranger's."""
        try:
            evaluations = evaluate_reporting(self._made[fidelity], X, report)
        except UnicucoError:
            raise
        except Exception as error:
            raise PluginError(f"the objective failed on {len(X)} strategies: {error}") from error
        if len(evaluations) != len(X):
            raise PluginError(f"an objective must give one value per strategy, got {len(evaluations)} for {len(X)}")
        return evaluations
