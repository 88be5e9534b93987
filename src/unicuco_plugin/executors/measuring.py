"""Candidates measured by a crew."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unicuco_plugin.executors.crew import Crew, Worker
from unicuco_plugin.executors.waiting import Candidate, Waiting
from unicuco_plugin.objectives.executor import Record
from unicuco_plugin.training.setup import Setup

__all__ = ["CandidateCrew", "Measuring"]


@dataclass(frozen=True)
class Measuring:
    """What workers need to measure the candidates of a run.

    Attributes:
        setup: The objectives of the run.
    """

    setup: Setup

    def open(self) -> Callable[..., Any]:
        """Load the model, and return what measures ``n x d`` strategies, given their fidelity; raises as ``Setup``."""
        return self.setup.open().measure


class CandidateCrew:
    """An ``Executor`` on a crew.

    Args:
        hire: Begins a worker that does what ``Measuring`` opens.
        count: The most workers.
        most: Candidates that a worker takes at once, at most.
        say: Told when workers begin or are lost, from within ``wait``.
    """

    def __init__(self, hire: Callable[[], Worker], count: int, most: int, say: Callable[[str], None]) -> None:
        self._waiting = Waiting(most)
        self._crew = Crew(hire, count, self._waiting, _measure, say=say, what="strategy")

    def give(self, fidelity: str, X: Tensor, record: Record) -> None:
        """See ``Executor``."""
        self._waiting.give(fidelity, X, record)

    def wait(self, report: Callable[[int], None]) -> None:
        """See ``Executor``; everything that is done has been recorded, so nothing is reported."""
        del report
        self._crew.wait()

    def close(self) -> None:
        """End all workers; what they are measuring is lost."""
        self._crew.close()


def _measure(worker: Worker, held: Sequence[Candidate]) -> None:
    X = torch.tensor([candidate.choices for candidate in held], dtype=torch.float64)
    found = worker.do(held[0].fidelity, X)
    held[0].record([candidate.row for candidate in held], found)
