"""Candidates that wait for a worker, each beside those that share the most of their first units with it."""

import bisect
import math
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from unicuco_plugin.objectives.executor import Record

__all__ = ["Candidate", "Waiting"]


@dataclass(frozen=True, order=True)
class Candidate:
    """One strategy that is to be measured; candidates are ordered by what they decide from the first unit on.

    Attributes:
        choices: The strategy, ``d`` numbers in the order of the model.
        row: Where it stands among those that were given together.
        fidelity: What it is measured on.
        record: Told what it scores.
        losses: Workers that were lost while they measured it.
    """

    choices: tuple[float, ...]
    row: int
    fidelity: str = field(compare=False)
    record: Record = field(compare=False, repr=False)
    losses: int = field(default=0, compare=False)


class Waiting:
    """Lots of candidates, taken by many threads: the oldest lot first, from each what is nearest.

    Args:
        most: Candidates that one takes at once, at most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lots: deque[list[Candidate]] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def give(self, fidelity: str, X: Tensor, record: Record) -> None:
        """Add ``n x d`` strategies as one lot."""
        lot = sorted(Candidate(tuple(row), i, fidelity, record) for i, row in enumerate(X.tolist()))
        with self._changed:
            self._lots.append(lot)
            self._changed.notify_all()

    def give_back(self, candidates: Sequence[Candidate]) -> None:
        """Return what was taken; it comes first, and each by itself: one of them may be what ends workers."""
        with self._changed:
            self._lots.extendleft([candidate] for candidate in reversed(candidates))
            self._changed.notify_all()

    def take(self, near: Candidate | None, workers: int) -> list[Candidate]:
        """Wait for candidates and take some; none once all is over.

        Args:
            near: What the worker has measured last, whose states it may still keep.
            workers: How many share a lot. Each takes its part of what is left, so that parts shrink towards the end
                and a slow worker holds nobody (guided self-scheduling: Polychronopoulos and Kuck 1987).
        """
        with self._changed:
            self._changed.wait_for(lambda: self._lots or self._closed)
            if self._closed:
                return []
            lot = self._lots[0]
            size = min(self._most, math.ceil(len(lot) / max(workers, 1)))
            place = 0 if near is None else bisect.bisect(lot, near)
            start = max(min(place, len(lot) - size), 0)
            taken = lot[start : start + size]
            del lot[start : start + size]
            if not lot:
                self._lots.popleft()
            return taken

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
