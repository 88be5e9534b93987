"""Measuring through the journal: nothing is used before it is durable, and nothing is measured twice.

What was measured is journaled as it is; what the search gets is floored (``floor``), so that it has a logarithm.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, runtime_checkable

from torch import Tensor

from unicuco_plugin.journal.journal import Journal, Measurement
from unicuco_plugin.journal.once import record_found
from unicuco_plugin.objectives.executor import Executor
from unicuco_plugin.objectives.floor import floored
from unicuco_plugin.objectives.objective import Evaluation
from unicuco_plugin.spaces.space import Named

__all__ = ["CONFIRM", "RANK", "RERANK", "AheadMeasure", "JournaledMeasure", "Measure", "begin"]

# The fidelities: which windows a strategy is measured on.
CONFIRM, RANK, RERANK = "confirm", "rank", "rerank"


class Measure(Protocol):
    """Measures strategies durably: whatever it returns is already in the journal, its value at least ``LEAST``."""

    def __call__(self, fidelity: str, X: Tensor, report: Callable[[int], None]) -> list[Measurement]:
        """Measure ``n x d`` strategies at one fidelity; calls ``report`` with how many are done."""
        ...


@runtime_checkable
class AheadMeasure(Measure, Protocol):
    """A measure that can be told what it will be asked for, so that whoever has time begins with it."""

    def begin(self, fidelity: str, X: Tensor) -> None:
        """Have ``n x d`` strategies measured meanwhile; returns at once."""
        ...


def begin(measure: Measure, fidelity: str, X: Tensor) -> None:
    """Have strategies measured meanwhile, by a measure that can."""
    if isinstance(measure, AheadMeasure):
        measure.begin(fidelity, X)


class JournaledMeasure:
    """Has an executor measure what the journal lacks, and records what comes, in one transaction as it comes.

    Args:
        journal: The open journal.
        space: Names the strategies.
        executor: Measures them.
    """

    def __init__(self, journal: Journal, space: Named, executor: Executor) -> None:
        self._journal, self._space, self._executor = journal, space, executor
        self._under_way: set[tuple[str, str]] = set()

    def begin(self, fidelity: str, X: Tensor) -> None:
        """Give out what is neither in the journal nor under way; see ``AheadMeasure``."""
        keys = [self._space.key(row) for row in X]
        busy = set(self._under_way)  # first: what is recorded meanwhile leaves this for the journal
        known = self._journal.lookup(fidelity, keys)
        rows = {key: i for i, key in enumerate(keys) if key not in known and (fidelity, key) not in busy}
        if rows:
            self._under_way.update((fidelity, key) for key in rows)
            self._executor.give(fidelity, X[list(rows.values())], partial(self._record, fidelity, list(rows)))

    def __call__(self, fidelity: str, X: Tensor, report: Callable[[int], None]) -> list[Measurement]:
        """Measure ``n x d`` strategies; see ``Measure``."""
        self.begin(fidelity, X)
        keys = [self._space.key(row) for row in X]
        told = -1

        def tell(done: int) -> None:
            nonlocal told
            if done > told:
                told = done
                report(done)

        while True:
            missing = sum((fidelity, key) in self._under_way for key in keys)
            done = len(keys) - missing
            tell(done)
            if not missing:
                break
            self._executor.wait(lambda more, done=done: tell(done + more))  # type: ignore[misc] # the loop's own
        found = self._journal.lookup(fidelity, keys)
        return [replace(found[key], value=floored(found[key].value)) for key in keys]

    def _record(self, fidelity: str, keys: Sequence[str], rows: Sequence[int], found: Sequence[Evaluation]) -> None:
        measured = [keys[row] for row in rows]
        record_found(self._journal, fidelity, measured, found)
        self._under_way.difference_update((fidelity, key) for key in measured)
