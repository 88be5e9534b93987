"""What a build does: states taken from block to block, and linears given out to be solved on the way."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor

from unicuco_plugin.levels.executor import Executor, InPlace, Workers
from unicuco_plugin.levels.gather import mean_states
from unicuco_plugin.levels.kinds import kind_of
from unicuco_plugin.levels.ledger import Ledger
from unicuco_plugin.levels.solver import calibrating
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.storage import resident

__all__ = ["Stream"]


class Stream:
    """A build under way.

    Args:
        ledger: What is done.
        decoder: The dense model, whose experts are linears.
        windows: ``m x L`` token ids to calibrate on.
    """

    def __init__(self, ledger: Ledger, decoder: Decoder, windows: Tensor) -> None:
        self.ledger = ledger
        self.decoder = decoder
        self.windows = windows
        self.settings = ledger.record.settings
        self.kind = kind_of(self.settings)
        self.fitting = calibrating(self.settings, ledger.tell)

    def run(self, workers: Workers | None = None) -> None:
        """Stream the states of all windows through the blocks, up to the last that has something to do.

        Args:
            workers: Who solves linears; none lets this process do it.
        """
        runner = BlockRunner(self.decoder, self.windows.shape[1])
        embedded = self.fitting(lambda size: torch.cat([runner.embed(part) for part in self.windows.split(size)]))
        states = [embedded]  # which the walk takes: those of one block are there at a time
        del embedded
        solving: AbstractContextManager[Executor] = (
            InPlace(self.ledger, runner, self.fitting)
            if workers is None
            else workers.start(self.ledger, states[0].nbytes)
        )
        with solving as executor:
            self.walk(runner, executor, states.pop)
        self.ledger.tell("writing")

    def walk(self, runner: BlockRunner, executor: Executor, take: Callable[[], Tensor]) -> None:
        """Go from block to block with the states that are taken, and wait until all is stored."""
        states = take()
        last = max(index for index in range(len(self.decoder.blocks)) if self.left(index))
        for index in range(last + 1):
            with resident():  # nothing but this block is run
                left = self.left(index)
                leaving = executor.give(index, left, states) if left else None
                if index == last:
                    break
                if self.settings.inputs == "dense" and leaving is not None:
                    states = leaving
                else:
                    states = self.fitting(partial(self.carry, runner, executor, index, states))
        executor.finish()

    def left(self, index: int) -> dict[str, tuple[int, int]]:
        """The linears of a block that are not yet stored, with their rows and columns."""
        linears = self.decoder.linears(index)
        return {name: (linears[name].out_features, linears[name].in_features) for name in self.ledger.left(linears)}

    def carry(self, runner: BlockRunner, executor: Executor, index: int, states: Tensor, size: int) -> Tensor:
        """The states that leave a block, of so many windows at a time, as the settings want them."""
        if self.settings.inputs == "dense":
            return torch.cat([runner.run(index, part) for part in states.split(size)])
        executor.finish()
        self.ledger.tell(f"carrying {self.decoder.block_names[index]}")
        weights = self.weights_of(index)
        return mean_states(runner, index, states, self.kind.shares, weights, batch_windows=size)

    def weights_of(self, index: int) -> Callable[[int], Mapping[str, Tensor]]:
        """The weights of a stored block at a level, for :func:`mean_states`."""
        stored = {
            name: (self.ledger.folder / entry.file, entry, linear.weight)
            for name, linear in self.decoder.linears(index).items()
            if (entry := self.ledger.record.linears.get(name))
        }

        def at(level: int) -> dict[str, Tensor]:
            found = {name: self.kind.read(path, entry, level, like) for name, (path, entry, like) in stored.items()}
            return {name: weight for name, weight in found.items() if weight is not None}

        return at
