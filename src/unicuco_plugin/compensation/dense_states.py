"""States of the dense model on calibration windows, at every block: what corrections aim at."""

from collections.abc import Sequence

import torch
from torch import Tensor

from unicuco_plugin.errors import CalibrationError
from unicuco_plugin.models.blocks.halves import step_names
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.storage import resident

__all__ = ["DenseStates", "run_blocks"]

# Of how many windows one is held out.
_HELD = 4


def run_blocks(runner: BlockRunner, blocks: Sequence[int], states: list[Tensor]) -> list[Tensor]:
    """Take batches of states past blocks, each block read once where weights are offloaded."""
    for index in blocks:
        with resident():
            states = [runner.run(index, batch) for batch in states]
    return states


class DenseStates:
    """Batches of windows and the dense model's states on them, computed when they are asked for.

    Args:
        runner: The dense model's; while its weights are as they were.
        windows: ``m x L`` token ids, at least two windows; every fourth is held out.
        batch: Windows that pass a block together.
        keep: Whether states of all blocks stay in the host's memory, for many sets of blocks one after the other; if
            not, ask for places in ascending order.

    Attributes:
        runner, windows, keep: As given.
        held: How many batches are of windows held out: they come first.
        tokens: Of all windows.
        width: Of states.
        counts: How many windows are held out, and how many there are.

    Raises:
        CalibrationError: If there are too few windows.
    """

    def __init__(self, runner: BlockRunner, windows: Tensor, *, batch: int = 8, keep: bool = False) -> None:
        if len(windows) < 2:
            raise CalibrationError(f"compensation needs at least 2 windows, one of them held out, got {len(windows)}")
        self.runner, self.windows, self.tokens, self.keep = runner, windows, windows.numel(), keep
        out = torch.arange(len(windows)) % _HELD == 0
        held, fit = windows[out].split(batch), windows[~out].split(batch)
        self.counts = int(out.sum()), len(windows)
        self.held = len(held)
        self._known = {0: [runner.embed(batch) for batch in (*held, *fit)]}
        self.width = self._known[0][0].shape[-1]
        self._finals: Tensor | None = None

    def at(self, place: int) -> list[Tensor]:
        """States that enter block ``place``, or leave the last one, ``b x L x d`` for each batch."""
        if place not in self._known:
            last = max(known for known in self._known if known < place)
            for index in range(last, place):
                left = run_blocks(self.runner, [index], self._known[index])
                self._known[index + 1] = [batch.cpu() for batch in left] if self.keep else left
                if not self.keep:
                    del self._known[index]
        return self._known[place]

    def finals(self) -> Tensor:
        """States behind the last block on the windows held out, ``m x L x d``."""
        if self._finals is None:
            count, first = len(step_names(self.runner)), min(self._known)
            known = self.at(count) if self.keep else self._known[first]
            rest = range(count if self.keep else first, count)
            self._finals = torch.cat(run_blocks(self.runner, rest, known[: self.held]))
        return self._finals
