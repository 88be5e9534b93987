"""Jobs that wait for a worker, first come, first served."""

import queue
from collections.abc import Iterable, Sequence
from typing import Generic

from unicuco_plugin.executors.crew import Kind

__all__ = ["FirstCome"]


class FirstCome(Generic[Kind]):
    """A line of jobs that are taken one at a time, by many threads.

    Args:
        jobs: In their order.
    """

    def __init__(self, jobs: Iterable[Kind]) -> None:
        self._queue: queue.SimpleQueue[Kind | None] = queue.SimpleQueue()
        self.give_back(list(jobs))

    def give_back(self, jobs: Sequence[Kind]) -> None:
        """Add jobs at the end."""
        for job in jobs:
            self._queue.put(job)

    def take(self, near: Kind | None, workers: int) -> list[Kind]:
        """Wait for a job and take it; none once all is over."""
        del near, workers
        job = self._queue.get()
        if job is None:
            self._queue.put(None)  # for the next who waits
            return []
        return [job]

    def close(self) -> None:
        """Let nobody wait any longer."""
        self._queue.put(None)
