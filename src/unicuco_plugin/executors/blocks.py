"""Linears that wait for a worker: each beside those of its block, whose Hessians the worker has."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["BlockLine", "LinearJob"]


@dataclass(frozen=True)
class LinearJob:
    """A linear that is to be solved.

    Attributes:
        index: Of its block.
        name: Of the linear.
        work: What solving it takes, beside others: rows times columns squared.
        states: Where the states are that enter the block.
        losses: Workers that were lost over it.
    """

    index: int
    name: str
    work: int
    states: Any = field(compare=False, repr=False)
    losses: int = 0


class BlockLine:
    """Linears of several blocks; many threads take from it, one at a time."""

    def __init__(self) -> None:
        self._jobs: list[LinearJob] = []
        self._changed = threading.Condition()
        self._closed = False

    def give(self, jobs: Sequence[LinearJob]) -> None:
        """Add linears of a block."""
        with self._changed:
            self._jobs += jobs
            self._changed.notify_all()

    def give_back(self, jobs: Sequence[LinearJob]) -> None:
        """Return what was taken; it comes first of its block."""
        with self._changed:
            self._jobs[:0] = jobs
            self._changed.notify_all()

    def take(self, near: LinearJob | None, workers: int) -> list[LinearJob]:
        """Wait for linears and take the one that takes longest; none once all is over.

        Args:
            near: What the worker has solved last. It stays with that block while anything is left of it, and then goes
                where most is left, to help others if need be.
            workers: How many there are.
        """
        del workers
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if self._closed:
                return []
            left: dict[int, int] = {}
            for job in self._jobs:
                left[job.index] = left.get(job.index, 0) + job.work
            own = near is not None and near.index in left
            index = near.index if near is not None and own else max(left, key=lambda block: (left[block], -block))
            best = max((job for job in self._jobs if job.index == index), key=lambda job: (job.losses, job.work))
            self._jobs.remove(best)
            return [best]

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
