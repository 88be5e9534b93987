"""Where linears are solved: whoever builds a database gives blocks out, and waits until they are stored."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from torch import Tensor

from unicuco_plugin.levels.ledger import Ledger
from unicuco_plugin.levels.record import LinearEntry
from unicuco_plugin.levels.solver import BlockSolver, say_unreached
from unicuco_plugin.levels.writer import Writer
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.memory import Fitting

__all__ = ["Executor", "InPlace", "Workers"]


class Executor(Protocol):
    """Solves linears, and adds them to the ledger."""

    def give(self, index: int, linears: Mapping[str, tuple[int, int]], states: Tensor) -> Tensor | None:
        """Take linears of a block to be solved.

        Args:
            index: The block.
            linears: Rows and columns of each, by its full name.
            states: ``m x L x hidden`` states that enter the block.

        Returns:
            The states that leave the dense block, where they are known by now.

        Raises:
            UnicucoError: If a linear cannot be solved or stored, whenever it was given.
        """
        ...

    def finish(self) -> None:
        """Return when all that was given is stored and recorded.

        Raises:
            UnicucoError: If something cannot be.
        """
        ...


class Workers(Protocol):
    """Processes that solve the linears of a build."""

    def start(self, ledger: Ledger, state_bytes: int) -> AbstractContextManager[Executor]:
        """Start them for one build.

        Args:
            ledger: Of the build.
            state_bytes: Of the ``m x L x hidden`` states that enter a block.

        Raises:
            EvaluationError: If none can be started; the message says what to do.
        """
        ...


class InPlace:
    """One worker, in this process: each linear is packed and written while the next is solved.

    Args:
        ledger: Of the build.
        runner: Of the dense model.
        fitting: How many windows pass a block together.
    """

    def __init__(self, ledger: Ledger, runner: BlockRunner, fitting: Fitting) -> None:
        self._ledger = ledger
        self._writer = Writer()
        self._solver = BlockSolver(runner, ledger.record.settings, fitting, ledger.tell, self._writer.wait)

    def give(self, index: int, linears: Mapping[str, tuple[int, int]], states: Tensor) -> Tensor:
        """See ``Executor``."""
        leaving = self._solver.enter(index, linears, states)
        reached = self._solver.reached
        unreached = [name for name in linears if name not in reached]
        if unreached:
            self._writer.wait()
            self._ledger.leave_out(unreached)
            for name in unreached:
                self._ledger.tell(f"calibrated {name}", say_unreached(name))
        for name in reached:
            self._writer.look()
            write = self._solver.solve(name)
            self._writer.put(partial(self._store, name, write))
            del write
        return leaving

    def finish(self) -> None:
        """See ``Executor``."""
        self._writer.wait()

    def _store(self, name: str, write: Callable[[Path], LinearEntry]) -> None:
        """Write a linear, and the record that has it."""
        self._ledger.add(name, self._solver.alone(lambda _: write(self._ledger.folder)))

    def __enter__(self) -> Self:
        """Linears can be given."""
        self._writer.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Finish what is being written, however the ``with`` ends."""
        self._writer.__exit__(kind, error, at)
