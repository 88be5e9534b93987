"""How far one call has got, for display."""

from collections.abc import Callable

from unicuco_plugin.objectives.objective import Report

__all__ = ["Tell", "Work", "ignore"]

Tell = Callable[[float], None]
"""Called with work that was just done, in blocks run on all windows."""


def ignore(_: float) -> None:
    """Tell nobody."""


class Work:
    """Turns work that is done into a number of candidates, as :data:`Report` takes it.

    Args:
        report: Called whenever some is done.
        candidates: How many are being measured.
        total: All their work; what comes on top is not told.
    """

    def __init__(self, report: Report, candidates: int, total: float) -> None:
        self._report, self._candidates, self._total = report, candidates, max(total, 1e-9)
        self._done = 0.0

    def add(self, amount: float) -> None:
        """Note that some is done."""
        self._done += amount
        self._report(self._candidates * min(self._done / self._total, 1.0))
