"""Divergence of candidates stitched from a level database: only what changes from one to the next is swapped."""

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from unicuco_plugin.levels.stitch import Stitcher
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.objectives.head import DivergenceHead
from unicuco_plugin.objectives.kl import Direction
from unicuco_plugin.objectives.objective import Evaluation, Report
from unicuco_plugin.objectives.room import letting_go
from unicuco_plugin.objectives.work import Tell, Work, ignore

__all__ = ["StitchedEvaluator"]


class StitchedEvaluator:
    """Measures KL between a dense model and itself with weights from a level database, on fixed windows.

    Candidates differ from the first block on, so none of the walk is shared; what is saved is the model's copy, the
    full logits, and every linear that two candidates in a row have in common. The result is that of a plain forward
    of the stitched checkpoint, to numerical noise.

    Args:
        decoder: The dense model, on the device to use; dense again after every call.
        levels: The database built from it.
        windows: ``m x L`` token ids.
        direction: ``forward`` for KL(dense‖pruned), ``reverse`` for KL(pruned‖dense).
        batch_windows: Windows that pass a block together.
        positions: Positions, of the dense model and one candidate, whose logits exist at one time; at least two.
        cache_bytes: Most bytes of decoded levels to keep between candidates.

    Raises:
        LevelsError: If the database does not fit the model.
    """

    def __init__(
        self,
        decoder: Decoder,
        levels: Levels,
        windows: Tensor,
        *,
        direction: Direction = "forward",
        batch_windows: int = 16,
        positions: int = 512,
        cache_bytes: int = 2**31,
    ) -> None:
        self._runner = BlockRunner(decoder, windows.shape[1])
        self._head = DivergenceHead(self._runner, direction=direction, positions=positions)
        self._stitcher = Stitcher(decoder, levels, cache_bytes=cache_bytes)
        self._levels = levels
        self._windows = windows
        self._batch_windows = batch_windows
        self._dense: Tensor | None = None

    def on(self, windows: Tensor) -> Self:
        """Return an evaluator on other windows that shares this one's decoded levels.

        Args:
            windows: ``k x K`` token ids; windows of the same length share what is recorded of the model's calls too.
        """
        other = copy.copy(self)
        other._windows, other._dense = windows, None
        if windows.shape[1] != self._windows.shape[1]:
            runner = BlockRunner(self._runner.decoder, windows.shape[1])
            other._runner = runner
            other._head = DivergenceHead(runner, direction=self._head.direction, positions=self._head.positions)
        return other

    @torch.inference_mode()
    def evaluate(self, plans: Sequence[Mapping[str, int]], report: Report = ignore) -> list[Evaluation]:
        """Measure candidates, each given by the zeros of its linears; tells ``report`` how many are done.

        Returns:
            One evaluation per candidate, in order.

        Raises:
            LevelsError: If a plan does not fit the database.
        """
        started = time.perf_counter()
        blocks = len(self._runner.decoder.blocks)
        walks = len(plans) + (self._dense is None)
        work = Work(report, len(plans), walks * blocks + len(plans) * self._head.blocks)
        finals = []
        with letting_go(self._levels.decoded.shed):
            if self._dense is None:
                self._dense = self._final(work.add)
            with self._stitcher as stitcher:
                for plan in plans:
                    stitcher.apply(plan)
                    finals.append(self._final(work.add))
            values = self._head.divergences(self._dense, finals, work.add)
        seconds = (time.perf_counter() - started) / max(len(plans), 1)
        tokens = self._windows.numel()
        return [Evaluation(sum(windows) / len(windows), windows, tokens, seconds) for windows in values]

    def _final(self, tell: Tell) -> Tensor:
        """States that leave the last block of the model as it is now."""
        parts = []
        for windows in self._windows.split(self._batch_windows):
            states = self._runner.embed(windows)
            for index in range(len(self._runner.decoder.blocks)):
                states = self._runner.run(index, states)
                tell(len(windows) / len(self._windows))
            parts.append(states)
        return torch.cat(parts)
