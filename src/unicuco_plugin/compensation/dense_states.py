"""States of the dense model on calibration windows, at every block: what corrections aim at."""

import weakref
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from unicuco_plugin.errors import CalibrationError, clip, quoted
from unicuco_plugin.models.blocks.halves import step_names
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.scratch import make_scratch, remove_scratch
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
        keep: Whether states of all blocks stay, for many sets of blocks one after the other: in files that the system
            keeps in memory while there is room (135 MB for each block of Llama-3-8B and 16 384 tokens in bfloat16),
            without names, so that none outlives the process; if not, ask for places in ascending order.

    Attributes:
        runner, windows, keep: As given.
        held: How many batches are of windows held out: they come first.
        tokens: Of all windows.
        width: Of states.
        counts: How many windows are held out, and how many there are.

    Raises:
        CalibrationError: If there are too few windows, or states are to stay and the disk does not take them.
    """

    def __init__(self, runner: BlockRunner, windows: Tensor, *, batch: int = 8, keep: bool = False) -> None:
        if len(windows) < 2:
            raise CalibrationError(f"compensation needs at least 2 windows, one of them held out, got {len(windows)}")
        self.runner, self.windows, self.tokens, self.keep = runner, windows, windows.numel(), keep
        out = torch.arange(len(windows)) % _HELD == 0
        held, fit = windows[out].split(batch), windows[~out].split(batch)
        self.counts = int(out.sum()), len(windows)
        self.held = len(held)
        first = [runner.embed(batch) for batch in (*held, *fit)]
        self.width = first[0].shape[-1]
        self._folder: Path | None = None
        self._known = {0: self._stay(0, first)}
        self._finals: Tensor | None = None

    def at(self, place: int) -> list[Tensor]:
        """States that enter block ``place``, or leave the last one, ``b x L x d`` for each batch."""
        if place not in self._known:
            last = max(known for known in self._known if known < place)
            for index in range(last, place):
                left = run_blocks(self.runner, [index], self._known[index])
                self._known[index + 1] = self._stay(index + 1, left)
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

    def _stay(self, place: int, states: list[Tensor]) -> list[Tensor]:
        """The same states, in a file where they are to stay."""
        if not self.keep:
            return states
        flat = torch.cat([batch.cpu().flatten() for batch in states])
        try:  # written rather than mapped empty: a mapped page that the disk has no room for would end the process
            if self._folder is None:
                self._folder = Path(make_scratch())
                weakref.finalize(self, remove_scratch, str(self._folder))
            file = self._folder / f"{place}.states"
            file.write_bytes(flat.view(torch.uint8).numpy().data)
        except OSError as error:
            where = "any folder for temporary files" if self._folder is None else quoted(self._folder.parent)
            raise CalibrationError(
                f"compensation keeps {flat.nbytes:,} bytes of states for each block, and there is no room in {where} "
                f"({clip(error.strerror or str(error), 100)}): set TMPDIR to another disk, or give less text"
            ) from error
        kept = torch.from_file(str(file), shared=True, size=flat.numel(), dtype=flat.dtype)
        file.unlink()  # the mapping stays
        sizes = [batch.numel() for batch in states]
        return [part.view(batch.shape) for part, batch in zip(kept.split(sizes), states, strict=True)]
