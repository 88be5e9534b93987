"""Packing and writing beside the solving of what comes next."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

__all__ = ["Writer"]


class Writer:
    """Does one job at a time in a thread of its own; nothing waits in line, so memory holds one job's tensors.

    At the end of a ``with`` the job under way is finished, however the ``with`` ends: also after Ctrl-C.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="unicuco-writer")
        self._job: Future[None] | None = None

    def put(self, job: Callable[[], None]) -> None:
        """Begin a job, once the one before it is done; raises what that one raised."""
        self.wait()
        self._job = self._pool.submit(job)

    def look(self) -> None:
        """Raise what the last job raised, if it has; nobody waits for it."""
        if self._job is not None and self._job.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the last job is done; raises what it raised, once."""
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def __enter__(self) -> Self:
        """Jobs can be put."""
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """Finish the last job; what it raises is raised unless something else is."""
        self._pool.shutdown()
        if kind is None:
            self.wait()
