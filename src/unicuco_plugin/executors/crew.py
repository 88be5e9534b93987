"""Workers that come and go, and the jobs that they do."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from unicuco_plugin.errors import (
    EvaluationError,
    ModelMismatchError,
    RequestError,
    StrategyError,
    UnsupportedModelError,
    clip,
)

__all__ = ["FINAL", "Crew", "Job", "Line", "LostError", "Worker"]

# A worker's place is given up after so many losses in a row without a result between them, and a job when so many
# workers were lost over it: one loss is bad luck, three are the job's or the machine's.
_LOSSES = 3
# Seconds before a place that has lost so many workers in a row is filled again: what is full now may not be then.
_PAUSE = 5.0
# Seconds without any worker after which that is said.
_PATIENCE = 60.0


FINAL = (ModelMismatchError, RequestError, StrategyError, UnsupportedModelError)
"""Errors that a worker on any other machine would raise, too."""


class LostError(Exception):
    """A worker is gone, or failed at what another may still do; the message says why."""


class Worker(Protocol):
    """One worker, asked by one thread."""

    def load(self) -> None:
        """Wait until it can work."""
        ...

    def do(self, *task: Any) -> Any:  # noqa: ANN401 - what its kind of work takes and gives
        """Do one thing.

        Raises:
            LostError: If another may do it.
            UnicucoError: If nobody can.
        """
        ...

    def end(self) -> None:
        """Free what it holds, also a second time; whoever waits for it gets a ``LostError``."""
        ...


class Job(Protocol):
    """Something to do: a dataclass, of which a copy with one loss more goes back to the line."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def losses(self) -> int:
        """Workers that were lost over it."""
        ...


Kind = TypeVar("Kind", bound=Job)


class Line(Protocol[Kind]):
    """Jobs that wait for workers; many threads take from it."""

    def take(self, near: Kind | None, workers: int) -> Sequence[Kind]:
        """Wait for jobs and take some; none once all is over.

        Args:
            near: What the worker has done last.
            workers: How many there are.
        """
        ...

    def give_back(self, jobs: Sequence[Kind]) -> None:
        """Return what was taken."""
        ...

    def close(self) -> None:
        """Let nobody wait any longer."""
        ...


class Crew(Generic[Kind]):
    """Workers, of which each takes jobs as it is done with others.

    A thread for each worker waits for it. What comes of a job is kept by that thread at once, and what a worker held
    when it was lost goes to others.

    Args:
        hire: Begins a worker, at once; ``load`` waits for it.
        count: The most workers.
        line: Where jobs wait.
        do: Has a worker do jobs that it took together, and keeps what comes of them.
        say: Told when workers begin or are lost, from within ``wait``.
        what: One job is called, in messages.
    """

    def __init__(
        self,
        hire: Callable[[], Worker],
        count: int,
        line: Line[Kind],
        do: Callable[[Worker, Sequence[Kind]], object],
        *,
        say: Callable[[str], None],
        what: str,
    ) -> None:
        self._hire, self._count, self._line, self._do, self._say, self._what = hire, count, line, do, say, what
        self._events: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()
        self._turn = threading.Lock()
        self._hired: list[Worker] = []
        self._at_work = self._told = 0
        self._places = count
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def note(self, text: str) -> None:
        """Have something said from within ``wait``; any thread may ask for it."""
        self._events.put(text)

    def wait(self) -> None:
        """Return when something more may have been done.

        Raises:
            UnicucoError: If a job cannot be done, or no worker is left.
        """
        try:
            event = self._events.get(timeout=None if self._at_work else _PATIENCE)
        except queue.Empty:
            event = f"none of {self._count} workers is ready: they wait for room on the cluster, or load the model"
        if isinstance(event, Exception):
            self._events.put(event)  # whoever asks again is told again
            raise event
        if event is not None:
            self._say(event)
        if self._at_work != self._told:  # of many that begin together the last tells it
            self._told = self._at_work
            self._say(f"{self._told} of {self._count} workers are at work")

    def close(self) -> None:
        """End all workers; what they are doing is lost."""
        with self._turn:
            self._closed.set()
            hired = list(self._hired)
        self._line.close()
        for worker in hired:
            worker.end()
        for thread in self._threads:
            thread.join(timeout=10.0)

    def _serve(self) -> None:
        """Keep one place filled, until all is over or the place is given up."""
        losses, reason = 0, ""
        while losses < _LOSSES:
            try:
                with self._hired_one() as worker:
                    if worker is None:
                        return
                    worker.load()
                    with self._counted():
                        near = None
                        while held := self._line.take(near, self._places):
                            self._work(worker, held)
                            near, losses = held[-1], 0
                return
            except LostError as error:
                losses, reason = losses + 1, clip(str(error), 150)
                self._events.put(f"a worker was lost: {reason}")
            except Exception as error:
                self._events.put(error)
                return
            self._closed.wait(_PAUSE * losses)
        with self._turn:
            self._places -= 1
        if not self._places:
            self._events.put(EvaluationError(f"no worker is left, each was lost {_LOSSES} times in a row: {reason}"))

    @contextmanager
    def _hired_one(self) -> Iterator[Worker | None]:
        """A worker, ended with the block; None once all is over."""
        with self._turn:
            worker = None if self._closed.is_set() else self._hire()
            self._hired += [worker] if worker else []
        try:
            yield worker
        finally:
            if worker:
                with self._turn:
                    self._hired.remove(worker)
                worker.end()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._count_in(1)
        try:
            yield
        finally:
            self._count_in(-1)

    def _count_in(self, more: int) -> None:
        with self._turn:
            self._at_work += more
        self._events.put(None)

    def _work(self, worker: Worker, held: Sequence[Kind]) -> None:
        try:
            self._do(worker, held)
        except LostError as error:
            again = [replace(job, losses=job.losses + 1) for job in held]
            if any(job.losses >= _LOSSES for job in again):
                raise EvaluationError(
                    f"{_LOSSES} workers were lost over one {self._what}: {clip(str(error), 200)}"
                ) from error
            worker.end()  # before others take them: it may still hold files that they need
            self._line.give_back(again)
            raise
        self._events.put(None)
