"""What a build does: linears solved block by block, each packed and written while the next is solved."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from unicuco_plugin.levels.gather import gather_hessians, mean_states
from unicuco_plugin.levels.kinds import kind_of
from unicuco_plugin.levels.record import LevelsRecord, LinearEntry, write_record
from unicuco_plugin.levels.sweep import Factor, factor_hessian
from unicuco_plugin.levels.writer import Writer
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.memory import Fitting, letting_go
from unicuco_plugin.models.tensors.storage import resident
from unicuco_plugin.progress import Progress

__all__ = ["Stream"]


class Stream:
    """A build under way; its record is on disk whenever it has grown, which it does as linears are written."""

    def __init__(
        self, folder: Path, record: LevelsRecord, decoder: Decoder, progress: Callable[[Progress], None]
    ) -> None:
        self.folder = folder
        self.record = record
        self.decoder = decoder
        self.progress = progress
        self.writer = Writer()
        self.settings = record.settings
        self.kind = kind_of(record.settings)
        self.mark = time.perf_counter()
        self.fitting = Fitting(record.settings.batch_windows, say=lambda text: self.tell("calibrating", text))
        self.alone = Fitting(1, ("linear", "linears are solved"), "the number of levels, or build on the CPU")

    def run(self, windows: Tensor) -> None:
        """Stream the states of all windows through the blocks, up to the last that has something to do."""
        with self.writer:
            self.walk(windows)
        self.tell("writing")

    def walk(self, windows: Tensor) -> None:
        """Go from block to block."""
        runner = BlockRunner(self.decoder, windows.shape[1])
        states = self.fitting(lambda size: torch.cat([runner.embed(part) for part in windows.split(size)]))
        last = max(index for index in range(len(self.decoder.blocks)) if self.left(index))
        for index in range(last + 1):
            with resident():  # nothing but this block is run
                leaving = self.solve(runner, index, states) if self.left(index) else None
                if index == last:
                    return
                if self.settings.inputs == "dense" and leaving is not None:
                    states = leaving
                else:
                    states = self.fitting(partial(self.carry, runner, index, states))

    def carry(self, runner: BlockRunner, index: int, states: Tensor, size: int) -> Tensor:
        """The states that leave a block, of so many windows at a time, as the settings want them."""
        if self.settings.inputs == "dense":
            return torch.cat([runner.run(index, part) for part in states.split(size)])
        self.tell(f"carrying {self.decoder.block_names[index]}")
        weights = self.weights_of(index)
        return mean_states(runner, index, states, self.kind.shares, weights, batch_windows=size)

    def left(self, index: int) -> list[str]:
        """The linears of a block that are not yet stored."""
        wanted = set(self.record.expected) - self.record.linears.keys()
        return [name for name in self.decoder.linears(index) if name in wanted]

    def solve(self, runner: BlockRunner, index: int, states: Tensor) -> Tensor:
        """Solve and store what is left of a block; returns the states that leave it dense."""
        self.tell(f"calibrating {self.decoder.block_names[index]}")
        hessians, leaving = self.fitting(partial(gather_hessians, runner, index, states))
        linears = self.decoder.linears(index)
        self.leave_out([name for name in self.left(index) if name not in hessians.leaders])
        left = set(self.left(index))
        for group in hessians.groups():
            names = [name for name in group if name in left]
            H, _ = hessians.sums.pop(group[0])
            if not names:
                continue
            self.tell(f"factoring {names[0]}")
            factor = self.alone(partial(self.factor, H))
            del H
            for name in names:
                self.tell(f"solving {name}")
                weights = {other: linears[other].weight.detach() for other in group}
                self.writer.look()
                write = self.alone(partial(self.make, name, weights, factor))
                self.writer.put(partial(self.store, name, write))
                del write
                why = f"its Hessian cannot be inverted, so it is {self.kind.fallback}; give more windows"
                self.tell(f"solved {name}", "" if factor.invertible else f"{name}: {why}")
        return leaving

    def factor(self, H: Tensor, _: int = 1) -> Factor:
        """Factor a Hessian as the settings say."""
        return factor_hessian(H, self.settings.damping, largest_first=self.settings.actorder == "static")

    def make(self, name: str, group: Mapping[str, Tensor], factor: Factor, _: int = 1) -> Callable[[Path], LinearEntry]:
        """Solve a linear; returns what writes it."""
        with letting_go(self.writer.wait):
            return self.kind.solve(name, group, factor)

    def store(self, name: str, write: Callable[[Path], LinearEntry]) -> None:
        """Write a linear, and the record that has it."""
        entry = self.alone(lambda _: write(self.folder))
        now = time.perf_counter()
        seconds, self.mark = round(self.record.seconds + now - self.mark, 3), now
        grown = self.record.linears | {name: entry}
        self.record = self.record.model_copy(update={"linears": grown, "seconds": seconds})
        write_record(self.folder, self.record)

    def leave_out(self, unreached: Sequence[str]) -> None:
        """Take linears that no token reached out of the database: they stay dense."""
        if unreached:
            self.writer.wait()
            expected = tuple(name for name in self.record.expected if name not in unreached)
            self.record = self.record.model_copy(update={"expected": expected})
            write_record(self.folder, self.record)
            for name in unreached:
                self.tell(f"calibrated {name}", f"{name}: no token reached it, so it stays dense and has no levels")

    def weights_of(self, index: int) -> Callable[[int], Mapping[str, Tensor]]:
        """The weights of a stored block at a level, for :func:`mean_states`."""
        self.writer.wait()
        stored = {
            name: (self.folder / entry.file, entry, linear.weight)
            for name, linear in self.decoder.linears(index).items()
            if (entry := self.record.linears.get(name))
        }

        def at(level: int) -> dict[str, Tensor]:
            found = {name: self.kind.read(path, entry, level, like) for name, (path, entry, like) in stored.items()}
            return {name: weight for name, weight in found.items() if weight is not None}

        return at

    def tell(self, stage: str, message: str = "") -> None:
        """Report progress."""
        total = len(self.record.expected)
        self.progress(Progress(stage, len(self.record.linears), total, message=message))
