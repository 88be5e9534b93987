"""Divergence of candidates whose linears are stored in schemes of a database."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.levels.stitch import find_linears
from unicuco_plugin.levels.stored import stored
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.memory import letting_go
from unicuco_plugin.objectives.evaluator import evaluate_choices
from unicuco_plugin.objectives.head import DivergenceHead
from unicuco_plugin.objectives.kl import Direction
from unicuco_plugin.objectives.objective import Evaluation, Report
from unicuco_plugin.objectives.prefixes import RUN, Change, Prefix, PrefixWalk, inside
from unicuco_plugin.objectives.work import ignore

__all__ = ["StoredEvaluator"]


class StoredEvaluator:
    """Measures KL between a dense model and itself with linears stored in fewer bits, on fixed windows.

    Candidates share what they have in common from the first block on (:class:`PrefixWalk`). The result is that of a
    plain forward of the checkpoint with these linears, decoded by compressed-tensors, to numerical noise.

    Args:
        decoder: The dense model, on the device to use; dense again after every call.
        levels: The database of schemes built from it.
        windows: ``m x L`` token ids.
        direction: ``forward`` for KL(dense‖stored), ``reverse`` for KL(stored‖dense).
        batch_windows: Windows that pass a block together.
        cache_bytes: Most bytes of partial models' states to keep between batches.
        decoded_bytes: Most bytes of decoded weights to keep; all evaluators of one database share them.
        positions: Positions, of the dense model and one candidate, whose logits exist at one time; at least two.

    Raises:
        LevelsError: If the database does not fit the model.
    """

    def __init__(
        self,
        decoder: Decoder,
        levels: SchemeLevels,
        windows: Tensor,
        *,
        direction: Direction = "forward",
        batch_windows: int = 8,
        cache_bytes: int = 2**28,
        decoded_bytes: int = 2**31,
        positions: int = 512,
    ) -> None:
        self._windows, self._levels = windows, levels
        linears = find_linears(decoder, levels, wider=True)
        self._blocks = [
            [name for name in decoder.linears(index) if name in linears] for index in range(len(decoder.blocks))
        ]
        runner = BlockRunner(decoder, windows.shape[1])
        # Not a method: a walk that refers to its owner keeps its states until the garbage collector comes by.
        change = partial(_change, partial(stored, linears, levels, cache_bytes=decoded_bytes))
        self._walk = PrefixWalk(runner, windows, change, batch_windows=batch_windows, cache_bytes=cache_bytes)
        self._head = DivergenceHead(runner, direction=direction, positions=positions)

    @torch.inference_mode()
    def evaluate(self, plans: Sequence[Mapping[str, str]], report: Report = ignore) -> list[Evaluation]:
        """Measure candidates, each given by the schemes of its linears; tells ``report`` how many are done.

        Returns:
            One evaluation per candidate, in order; equal ones are computed once.

        Raises:
            LevelsError: If the database lacks a linear of a plan, or its scheme.
        """
        for plan in plans:
            for name, scheme in plan.items():
                self._levels.loss(name, scheme)
        choices = [tuple(_choice(names, plan) for names in self._blocks) for plan in plans]
        with letting_go(self._levels.decoded.shed):
            return evaluate_choices(self._walk, self._head, choices, self._windows.numel(), report)


def _choice(names: Sequence[str], plan: Mapping[str, str]) -> tuple[tuple[str, str], ...] | None:
    return tuple((name, plan[name]) for name in names if name in plan) or None


def _change(put: Callable[[Mapping[str, str]], AbstractContextManager[None]], prefix: Prefix) -> Change:
    choice: Any = prefix[-1]
    return RUN if choice is None else inside(partial(put, dict(choice)))
