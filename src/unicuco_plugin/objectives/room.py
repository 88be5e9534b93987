"""As many candidates at a time as the device has memory for."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from unicuco_plugin.models.tensors.memory import LOWER, Fitting, warn
from unicuco_plugin.objectives.objective import Report

__all__ = ["Room"]

_Candidate = TypeVar("_Candidate")
_Found = TypeVar("_Found")


class Room:
    """Measures candidates together, and half as many at a time whenever they did not fit.

    A candidate's value is the same bits whoever is measured beside it, so nothing but time depends on the memory.

    Args:
        say: Told in one line that fewer are measured at a time; the package's log by default.
    """

    def __init__(self, say: Callable[[str], None] = warn) -> None:
        self._fitting = Fitting(
            sys.maxsize, ("strategy", "strategies are measured"), f"batch_windows, then {LOWER}", say
        )

    def measure(
        self,
        measure: Callable[[Sequence[_Candidate], Report], Sequence[_Found]],
        candidates: Sequence[_Candidate],
        report: Report = lambda _: None,
    ) -> list[_Found]:
        """Measure candidates, in order.

        Args:
            measure: Called with some of them, and with what is told how many of these are done.
            candidates: Whatever it takes.
            report: Told how many of all are done.

        Raises:
            EvaluationError: If one alone does not fit; the message says what to lower.
        """
        found: list[_Found] = []
        start = 0

        def some(size: int) -> tuple[int, list[_Found]]:
            return size, list(measure(candidates[start : start + size], lambda done: report(start + done)))

        while start < len(candidates):
            size, part = self._fitting(some, len(candidates) - start)
            found += part
            start += size
        return found
