"""Where candidates are measured: whoever wants values gives strategies out, and is told what comes of them."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor, stack

from unicuco_plugin.errors import PluginError, UnicucoError
from unicuco_plugin.models.tensors.memory import warn
from unicuco_plugin.objectives.objective import Evaluation, Objective, Report, evaluate_reporting
from unicuco_plugin.objectives.room import Room

__all__ = ["Executor", "InPlace", "Objectives", "Record"]

Record = Callable[[Sequence[int], Sequence[Evaluation]], None]
"""Told, by any thread, rows of strategies that were given and have been measured, and what those score."""


class Executor(Protocol):
    """Measures strategies, in any order; the value of each is the same bits whoever measures it beside what."""

    def give(self, fidelity: str, X: Tensor, record: Record) -> None:
        """Take ``n x d`` strategies to be measured at one fidelity; returns at once."""
        ...

    def wait(self, report: Callable[[int], None]) -> None:
        """Return when something more may have been recorded; what was given first comes first.

        Args:
            report: May be told how many strategies are done that have not been recorded yet.

        Raises:
            UnicucoError: If a strategy cannot be measured, whenever it was given.
        """
        ...


class Objectives:
    """The objectives of all fidelities, each made when it is first needed.

    Args:
        makers: Makes the objective of each fidelity.
        say: Told when memory has room for fewer strategies at a time.
    """

    def __init__(self, makers: Mapping[str, Callable[[], Objective]], say: Callable[[str], None] = warn) -> None:
        self._makers = makers
        self._made: dict[str, Objective] = {}
        self._rooms = {fidelity: Room(say) for fidelity in makers}

    def make(self, fidelity: str) -> Objective:
        """The objective of a fidelity."""
        if fidelity not in self._made:
            self._made[fidelity] = self._makers[fidelity]()
        return self._made[fidelity]

    def measure(self, fidelity: str, X: Tensor, report: Report = lambda _: None) -> list[Evaluation]:
        """Measure ``n x d`` strategies, in order, as many at a time as there is memory for.

        Raises:
            PluginError: If the objective, which may be a stranger's, fails.
            UnicucoError: As the objective says.
        """
        objective = self.make(fidelity)
        try:
            return self._rooms[fidelity].measure(
                lambda rows, tell: evaluate_reporting(objective, stack(list(rows)), tell), list(X), report
            )
        except UnicucoError:
            raise
        except Exception as error:
            raise PluginError(f"the objective failed on {len(X)} strategies: {error}") from error


class InPlace:
    """One worker, in this process: measures in fixed batches, while it is waited for.

    Args:
        objectives: Of this process.
        batch: Strategies measured and recorded together. A killed run loses at most one batch.
    """

    def __init__(self, objectives: Objectives, batch: int) -> None:
        self._objectives, self._batch = objectives, batch
        self._given: deque[tuple[str, Tensor, range, Record]] = deque()

    def give(self, fidelity: str, X: Tensor, record: Record) -> None:
        """See ``Executor``."""
        for start in range(0, len(X), self._batch):
            rows = range(start, min(start + self._batch, len(X)))
            self._given.append((fidelity, X[rows.start : rows.stop], rows, record))

    def wait(self, report: Callable[[int], None]) -> None:
        """Measure the next batch; the last of its strategies is reported by being recorded."""
        fidelity, X, rows, record = self._given[0]
        found = self._objectives.measure(fidelity, X, lambda done: report(min(int(done + 1e-9), len(rows) - 1)))
        record(rows, found)
        self._given.popleft()
