"""Level databases built by workers on Ray."""

import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from unicuco_plugin.errors import LevelsError
from unicuco_plugin.executors.blocks import BlockLine, LinearJob
from unicuco_plugin.executors.crew import Crew, Worker
from unicuco_plugin.executors.on_ray import RayPool, RayWorkers, Stored
from unicuco_plugin.files.draft import remove_drafts
from unicuco_plugin.levels.executor import Executor
from unicuco_plugin.levels.experts import split_experts
from unicuco_plugin.levels.ledger import Ledger
from unicuco_plugin.levels.linear import check_file
from unicuco_plugin.levels.record import LevelsRecord, LinearEntry, read_record, write_file
from unicuco_plugin.levels.solver import BlockSolver, calibrating, check_model, say_singular, say_unreached
from unicuco_plugin.models.blocks.decoder import Decoder, find_decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.memory import spare_memory
from unicuco_plugin.models.tensors.storage import resident
from unicuco_plugin.training.source import ModelSource

__all__ = ["LevelWorkers", "Transport"]

Transport = Literal["shared", "driver"]


@dataclass(frozen=True)
class LevelWorkers:
    """Workers of a level build: ``Workers`` for ``build_levels``.

    The driver takes states through the model and keeps those that enter a block in Ray's object store; a worker reads
    them when it begins with a block, sums the Hessians, and solves linears one by one.

    Attributes:
        workers: On Ray.
        source: Where each of them loads the model.
        transport: How a file comes into the database: ``shared``, written there by the worker, whose machine sees the
            folder; ``driver``, sent to the process that builds.
    """

    workers: RayWorkers
    source: ModelSource
    transport: Transport = "shared"

    @contextmanager
    def start(self, ledger: Ledger, state_bytes: int) -> Iterator[Executor]:
        """See ``Workers``."""
        record = ledger.record.model_copy(update={"linears": {}})
        folder = ledger.folder.absolute() if self.transport == "shared" else None
        opening = Solving(self.source.absolute, record, folder)
        # What there is no room for Ray keeps on the disk.
        store = min((self.workers.count + 2) * state_bytes, int(spare_memory("cpu")))
        with self.workers.at(opening, record.device, store) as pool:
            crew = _LevelCrew(pool, self.workers.count, ledger)
            try:
                yield crew
            finally:
                crew.close()
                remove_drafts(ledger.folder)  # of workers that were killed in the middle of a write


class Solved(NamedTuple):
    """What a worker made of a linear.

    Attributes:
        entry: None where no token reached the linear.
        data: Its file, unless that was written where it belongs.
    """

    entry: LinearEntry | None
    data: bytes | None = None


@dataclass(frozen=True)
class Solving:
    """What workers need to solve the linears of a build.

    Attributes:
        source: The dense model, where it is.
        record: Of the database, without linears.
        folder: Where they write files; None where they send them.
    """

    source: ModelSource
    record: LevelsRecord
    folder: Path | None

    def open(self) -> Callable[..., Any]:
        """Load the model, and return what solves one linear.

        Raises:
            ModelMismatchError: If another model is there, or it is another in dtype or device.
            LevelsError: If the build's folder is not there.
        """
        if self.folder is not None and self.record.differences(read_record(self.folder)):
            raise LevelsError(f"the folder {self.folder} is of another build on the worker's machine")
        decoder = find_decoder(self.source.load())
        split_experts(decoder.model)
        check_model(decoder, self.record)
        return _Site(self, decoder)


class _Site:
    """Where a worker solves linears: it stays at one block as long as it can."""

    def __init__(self, solving: Solving, decoder: Decoder) -> None:
        self._solving, self._decoder = solving, decoder
        settings = solving.record.settings
        fitting = calibrating(settings, lambda _stage, _message: None)
        self._solver = BlockSolver(BlockRunner(decoder, solving.record.calibration.length), settings, fitting)
        self._index: int | None = None
        self._reached: list[str] = []

    def __call__(self, index: int, name: str, states: Stored) -> Solved:
        if index != self._index:
            wanted = [linear for linear in self._decoder.linears(index) if linear in self._solving.record.expected]
            self._index = None
            with resident():
                self._solver.enter(index, wanted, states.read())
            self._index, self._reached = index, self._solver.reached
        if name not in self._reached:
            return Solved(None)
        write = self._solver.solve(name)
        folder = self._solving.folder
        with nullcontext(folder) if folder else tempfile.TemporaryDirectory() as place:
            entry = self._solver.alone(lambda _: write(Path(place)))
            return Solved(entry, None if folder else (Path(place) / entry.file).read_bytes())


class _LevelCrew:
    """An ``Executor`` on a crew."""

    def __init__(self, pool: RayPool, count: int, ledger: Ledger) -> None:
        self._pool, self._count, self._ledger = pool, count, ledger
        self._line = BlockLine()
        self._open: dict[int, int] = {}  # linears that are not yet stored, by block
        self._turn = threading.Lock()
        say = partial(ledger.tell, "solving")
        self._crew = Crew(pool.hire, count, self._line, self._solve, say=say, what="linear")

    def give(self, index: int, linears: Mapping[str, tuple[int, int]], states: Tensor) -> None:
        """See ``Executor``; waits while each worker has a block to begin with, for each is kept with its states."""
        while len(self._open) > self._count:
            self._wait()
        kept = self._pool.keep(states.cpu())
        with self._turn:
            self._open[index] = len(linears)
        self._line.give([LinearJob(index, name, rows * columns**2, kept) for name, (rows, columns) in linears.items()])

    def finish(self) -> None:
        """See ``Executor``."""
        while self._open:
            self._wait()

    def close(self) -> None:
        """End all workers; what they are solving is lost."""
        self._crew.close()

    def _wait(self) -> None:
        self._ledger.tell("solving")
        self._crew.wait()

    def _solve(self, worker: Worker, held: Sequence[LinearJob]) -> None:
        """Have a linear solved, and record it."""
        [job] = held
        solved: Solved = worker.do(job.index, job.name, job.states)
        if solved.entry is None:
            self._ledger.leave_out([job.name])
            self._crew.note(say_unreached(job.name))
        else:
            if solved.data is not None:
                write_file(self._ledger.folder / solved.entry.file, solved.data)
            self._check(solved.entry)
            self._ledger.add(job.name, solved.entry)
            if not solved.entry.invertible:
                self._crew.note(say_singular(job.name, self._ledger.record.settings))
        with self._turn:
            self._open[job.index] -= 1
            if not self._open[job.index]:
                del self._open[job.index]

    def _check(self, entry: LinearEntry) -> None:
        try:
            check_file(self._ledger.folder, entry, content=False)
        except LevelsError as error:
            raise LevelsError(
                f"{self._ledger.folder} has no {entry.file}, which a worker wrote: its machine has another folder of "
                "that name; give --levels-transport driver"
            ) from error
