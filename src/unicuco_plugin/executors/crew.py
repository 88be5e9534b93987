"""Workers that come and go, and the candidates that they measure."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from unicuco_plugin.errors import EvaluationError, clip
from unicuco_plugin.executors.waiting import Candidate, Waiting
from unicuco_plugin.objectives.executor import Record
from unicuco_plugin.objectives.objective import Evaluation

__all__ = ["Crew", "LostError", "Worker"]

# A worker's place is given up after so many losses in a row without a value between them, and a candidate when so many
# workers were lost over it: one loss is bad luck, three are the candidate's or the machine's.
_LOSSES = 3
# Seconds before a place that has lost so many workers in a row is filled again: what is full now may not be then.
_PAUSE = 5.0
# Seconds without any worker after which that is said.
_PATIENCE = 60.0


class LostError(Exception):
    """A worker is gone, or failed at what another may still do; the message says why."""


class Worker(Protocol):
    """One worker, asked by one thread."""

    def load(self) -> None:
        """Wait until it can measure."""
        ...

    def measure(self, fidelity: str, X: Tensor) -> Sequence[Evaluation]:
        """Measure ``n x d`` strategies, in order.

        Raises:
            LostError: If another may do it.
            UnicucoError: If nobody can.
        """
        ...

    def end(self) -> None:
        """Free what it holds; whoever waits for it gets a ``LostError``."""
        ...


class Crew:
    """An ``Executor`` on workers, of which each takes candidates as it is done with others.

    A thread for each worker waits for it. What it scores is recorded by that thread at once, and what it held when it
    was lost goes to others.

    Args:
        hire: Begins a worker, at once; ``load`` waits for it.
        count: The most workers.
        most: Candidates that a worker takes at once, at most.
        say: Told when workers begin or are lost, from within ``wait``.
    """

    def __init__(self, hire: Callable[[], Worker], count: int, most: int, say: Callable[[str], None]) -> None:
        self._hire, self._count, self._say = hire, count, say
        self._waiting = Waiting(most)
        self._events: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()
        self._turn = threading.Lock()
        self._hired: list[Worker] = []
        self._at_work = self._told = 0
        self._places = count
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def give(self, fidelity: str, X: Tensor, record: Record) -> None:
        """See ``Executor``."""
        self._waiting.give(fidelity, X, record)

    def wait(self, report: Callable[[int], None]) -> None:
        """See ``Executor``; everything that is done has been recorded, so nothing is reported."""
        del report
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
            self._say(f"{self._told} of {self._count} workers are measuring")

    def close(self) -> None:
        """End all workers; what they are measuring is lost."""
        with self._turn:
            self._closed.set()
            hired = list(self._hired)
        self._waiting.close()
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
                        while held := self._waiting.take(near, self._places):
                            self._measure(worker, held)
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

    def _measure(self, worker: Worker, held: Sequence[Candidate]) -> None:
        X = torch.tensor([candidate.choices for candidate in held], dtype=torch.float64)
        try:
            found = worker.measure(held[0].fidelity, X)
        except LostError as error:
            again = [replace(candidate, losses=candidate.losses + 1) for candidate in held]
            if any(candidate.losses >= _LOSSES for candidate in again):
                raise EvaluationError(
                    f"{_LOSSES} workers were lost over one strategy: {clip(str(error), 200)}"
                ) from error
            self._waiting.give_back(again)
            raise
        held[0].record([candidate.row for candidate in held], found)
        self._events.put(None)
