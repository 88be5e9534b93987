"""As many candidates at a time as the device has memory for."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from unicuco_plugin.errors import EvaluationError, clip
from unicuco_plugin.models.tensors.memory import lacks_memory
from unicuco_plugin.objectives.objective import Evaluation, Report

__all__ = ["Room", "letting_go"]

_Candidate = TypeVar("_Candidate")


class Room:
    """Measures candidates together, and half as many at a time whenever they did not fit.

    A candidate's value is the same bits whoever is measured beside it, so nothing but time depends on the memory.

    Args:
        say: Told in one line that fewer are measured at a time.
    """

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        self._say = say
        self._most: int | None = None

    def measure(
        self,
        measure: Callable[[Sequence[_Candidate], Report], Sequence[Evaluation]],
        candidates: Sequence[_Candidate],
        report: Report = lambda _: None,
    ) -> list[Evaluation]:
        """Measure candidates, in order.

        Args:
            measure: Called with some of them, and with what is told how many of these are done.
            candidates: Whatever it takes.
            report: Told how many of all are done.

        Raises:
            EvaluationError: If one alone does not fit; the message says what to lower.
        """
        found: list[Evaluation] = []
        start, again = 0, False
        while start < len(candidates):
            part = candidates[start : start + (self._most or len(candidates))]
            measured = self._try(measure, part, _after(start, report), last=again)
            # Once more for one alone: what was kept for speed has been let go.
            again = measured is None and len(part) == 1
            if measured is not None:
                found += measured
                start += len(part)
        return found

    def _try(
        self,
        measure: Callable[[Sequence[_Candidate], Report], Sequence[Evaluation]],
        part: Sequence[_Candidate],
        report: Report,
        *,
        last: bool,
    ) -> list[Evaluation] | None:
        try:
            return list(measure(part, report))
        except (RuntimeError, MemoryError) as error:
            if not lacks_memory(error):
                raise
            if last:
                raise EvaluationError(
                    f"one strategy alone does not fit the memory of the device ({clip(str(error))}): lower "
                    "batch_windows, then the tokens of a window (seq_length; rank_seq_length in a training's ranking), "
                    "or take a narrower dtype"
                ) from error
        # Only here, where nothing refers to the tensors of the attempt any more, are they free.
        torch.cuda.empty_cache()
        self._most = max(len(part) // 2, 1)
        if len(part) > 1:
            self._say(f"out of memory: strategies are measured {self._most} at a time from here on, not {len(part)}")
        return None


@contextmanager
def letting_go(shed: Callable[[], None]) -> Iterator[None]:
    """Call ``shed``, which frees what is kept for speed alone, when memory has no room for what is in the ``with``."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if lacks_memory(error):
            shed()
        raise


def _after(before: int, report: Report) -> Report:
    return lambda done: report(before + done)
