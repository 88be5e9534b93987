"""Measurements that several runs share: what one has measured costs the next nothing."""

import time
from collections.abc import Callable

from torch import Tensor

from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.journal.once import measure_once
from unicuco_plugin.objectives.objective import Evaluation, Objective, Report, evaluate_reporting
from unicuco_plugin.spaces.space import Named

__all__ = ["RememberedObjective"]


class RememberedObjective:
    """An objective that asks a journal first, and writes down what it had to measure.

    Tokens and seconds of a remembered measurement are those that it once took, so that every run is charged alike.

    Args:
        make: Makes the objective, when something has to be measured.
        journal: Open, of the one model that is measured.
        space: Names the strategies.
        identity: What else decides a measurement: objective, windows, units.
        spent: Called with the wall seconds that measuring really took.
    """

    def __init__(
        self,
        make: Callable[[], Objective],
        journal: Journal,
        space: Named,
        identity: str,
        spent: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._make, self._journal, self._space, self._identity = make, journal, space, identity
        self._spent = spent
        self._made: Objective | None = None

    def evaluate(self, X: Tensor) -> list[Evaluation]:
        """Measure ``n x d`` strategies, in order."""
        return self.evaluate_reporting(X, lambda _: None)

    def evaluate_reporting(self, X: Tensor, report: Report) -> list[Evaluation]:
        """As ``evaluate``; calls ``report`` with how many strategies are done, where the objective says so."""

        def measure(places: list[int]) -> list[Evaluation]:
            started = time.perf_counter()
            self._made = self._made or self._make()
            try:
                return evaluate_reporting(self._made, X[places], report)
            finally:  # what did not fit the memory took its time, too
                self._spent(time.perf_counter() - started)

        keys = [self._space.key(row) for row in X]
        rows = measure_once(self._journal, self._identity, keys, measure)
        return [Evaluation(row.value, row.per_window, row.tokens, row.seconds) for row in rows]
