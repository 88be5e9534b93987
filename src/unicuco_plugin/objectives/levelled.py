"""Divergence of candidates whose linears have weights from a level database, block by block."""

import copy
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from unicuco_plugin.levels.exchange import Exchange
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.memory import letting_go, spare_memory
from unicuco_plugin.objectives.evaluator import evaluate_choices
from unicuco_plugin.objectives.head import DivergenceHead
from unicuco_plugin.objectives.kl import Direction
from unicuco_plugin.objectives.objective import Evaluation, Report
from unicuco_plugin.objectives.prefixes import RUN, SKIP, Change, Prefix, PrefixWalk, inside
from unicuco_plugin.objectives.work import ignore

__all__ = ["LevelEvaluator"]

# What a block that is skipped gets in place of a plan.
_GONE = "gone"


class LevelEvaluator:
    """Measures KL between a dense model and itself with weights from a level database, on fixed windows.

    All candidates of a batch pass one block before the next (:class:`PrefixWalk`), so its levels are decoded once for
    all of them, and an offloaded block is read once. The result is that of a plain forward of the checkpoint with these
    weights, to numerical noise.

    Args:
        exchange: How linears get their weights: :class:`Stitching` from a database of sparsities, :class:`Storing`
            from one of schemes; its model, on the device to use, is dense again after every call.
        windows: ``m x L`` token ids.
        direction: ``forward`` for KL(dense‖changed), ``reverse`` for KL(changed‖dense).
        batch_windows: Windows that pass a block together.
        positions: Positions, of the dense model and one candidate, whose logits exist at one time; at least two.
        decoded_bytes: Most bytes of decoded weights to keep, by all evaluators of one database; those of one block may
            take more where a quarter of what is free has room for them.
    """

    def __init__(
        self,
        exchange: Exchange,
        windows: Tensor,
        *,
        direction: Direction = "forward",
        batch_windows: int = 16,
        positions: int = 512,
        decoded_bytes: int = 2**31,
    ) -> None:
        decoder = exchange.decoder
        owned = [decoder.linears(index) for index in range(len(decoder.blocks))]
        self._exchange = exchange
        self._blocks = [[name for name in exchange.linears if name in linears] for linears in owned]
        self._runner = BlockRunner(decoder, windows.shape[1])
        self._head = DivergenceHead(self._runner, direction=direction, positions=positions)
        self._batch_windows, self._decoded_bytes = batch_windows, decoded_bytes
        self._look_at(windows)

    def on(self, windows: Tensor) -> Self:
        """Return an evaluator on other windows that shares this one's decoded levels.

        Args:
            windows: ``k x K`` token ids; windows of the same length share what is recorded of the model's calls too.
        """
        other = copy.copy(self)
        if windows.shape[1] != self._windows.shape[1]:
            runner = BlockRunner(self._runner.decoder, windows.shape[1])
            other._runner = runner
            other._head = DivergenceHead(runner, direction=self._head.direction, positions=self._head.positions)
        other._look_at(windows)
        return other

    def _look_at(self, windows: Tensor) -> None:
        self._windows = windows
        # Not a method: a walk that refers to its owner keeps its states until the garbage collector comes by.
        change = partial(_change, self._exchange, self._room())
        self._walk = PrefixWalk(self._runner, windows, change, batch_windows=self._batch_windows)

    def _room(self) -> int:
        """Bytes of decoded levels that may be kept."""
        levels = self._exchange.levels
        sizes = levels.sizes
        block = max(sum(sizes[name] * levels.entry(name).levels for name in names) for names in self._blocks)
        return max(self._decoded_bytes, int(min(block * levels.weight_bytes, spare_memory(self._runner.device))))

    @torch.inference_mode()
    def evaluate(
        self, plans: Sequence[Mapping[str, Any]], report: Report = ignore, *, gone: Sequence[Collection[str]] = ()
    ) -> list[Evaluation]:
        """Measure candidates, each given by what its linears get; tells ``report`` how many are done.

        Args:
            plans: Linear → what it gets.
            report: As above.
            gone: For each plan the names of blocks that are skipped; none where it is left out.

        Returns:
            One evaluation per candidate, in order. Equal candidates are computed once.

        Raises:
            LevelsError: If a plan does not fit the database.
        """
        for plan in plans:
            self._exchange.check(plan)
        blocks = list(zip(self._runner.decoder.block_names, self._blocks, strict=True))
        choices = [
            tuple(_GONE if block in away else _choice(names, plan) for block, names in blocks)
            for plan, away in zip(plans, gone or [()] * len(plans), strict=True)
        ]
        with letting_go(self._exchange.levels.decoded.shed):
            return evaluate_choices(self._walk, self._head, choices, self._windows.numel(), report)


def _choice(names: Sequence[str], plan: Mapping[str, Any]) -> tuple[tuple[str, Any], ...] | None:
    return tuple((name, plan[name]) for name in names if plan.get(name)) or None


def _change(exchange: Exchange, decoded_bytes: int, prefix: Prefix) -> Change:
    choice: Any = prefix[-1]
    if choice == _GONE:
        return SKIP
    return RUN if choice is None else inside(partial(exchange.inside, dict(choice), decoded_bytes))
