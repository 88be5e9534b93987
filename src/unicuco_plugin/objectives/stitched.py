"""Divergence of candidates stitched from a level database, block by block."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Self, cast

import torch
from torch import Tensor, nn

from unicuco_plugin.levels.realise import realise
from unicuco_plugin.levels.stitch import check_plan, find_linears, swapped
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.memory import free_memory, letting_go
from unicuco_plugin.objectives.evaluator import evaluate_choices
from unicuco_plugin.objectives.head import DivergenceHead
from unicuco_plugin.objectives.kl import Direction
from unicuco_plugin.objectives.objective import Evaluation, Report
from unicuco_plugin.objectives.prefixes import RUN, Change, Prefix, PrefixWalk, inside
from unicuco_plugin.objectives.work import ignore

__all__ = ["StitchedEvaluator"]

# Share of a device's free memory that one block's levels may take: a choice, as large as that of dense states.
_SHARE = 0.25


class StitchedEvaluator:
    """Measures KL between a dense model and itself with weights from a level database, on fixed windows.

    All candidates of a batch pass one block before the next, so its levels are decoded once for all of them, and an
    offloaded block is read once. The result is that of a plain forward of the stitched checkpoint, to numerical noise.

    Args:
        decoder: The dense model, on the device to use; dense again after every call.
        levels: The database built from it.
        windows: ``m x L`` token ids.
        direction: ``forward`` for KL(dense‖pruned), ``reverse`` for KL(pruned‖dense).
        batch_windows: Windows that pass a block together.
        positions: Positions, of the dense model and one candidate, whose logits exist at one time; at least two.
        cache_bytes: Most bytes of decoded levels to keep between candidates; those of one block may take more where a
            quarter of what is free has room for them.

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
        linears = find_linears(decoder, levels)
        self._blocks = [
            {name: linear for name, linear in linears.items() if name.startswith(f"{block}.")}
            for block in decoder.block_names
        ]
        self._runner = BlockRunner(decoder, windows.shape[1])
        self._head = DivergenceHead(self._runner, direction=direction, positions=positions)
        self._levels, self._batch_windows, self._cache_bytes = levels, batch_windows, cache_bytes
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
        change = partial(_stitched, self._blocks, self._levels, self._room())
        self._walk = PrefixWalk(self._runner, windows, change, batch_windows=self._batch_windows)

    def _room(self) -> int:
        """Bytes of decoded levels that may be kept."""
        sizes, entries = self._levels.sizes, self._levels.record.linears
        block = max(sum(sizes[name] * len(entries[name].zeros) for name in names) for names in self._blocks)
        free = _SHARE * free_memory(self._runner.device)
        return max(self._cache_bytes, int(min(block * self._levels.weight_bytes, free)))

    @torch.inference_mode()
    def evaluate(self, plans: Sequence[Mapping[str, int]], report: Report = ignore) -> list[Evaluation]:
        """Measure candidates, each given by the zeros of its linears; tells ``report`` how many are done.

        Returns:
            One evaluation per candidate, in order. Equal candidates are computed once.

        Raises:
            LevelsError: If a plan does not fit the database.
        """
        for plan in plans:
            check_plan(self._levels, plan)
        choices: list[Prefix] = []
        for plan in plans:
            counts = [tuple(plan.get(name, 0) for name in names) for names in self._blocks]
            choices.append(tuple(own if any(own) else None for own in counts))
        with letting_go(self._levels.decoded.shed):
            return evaluate_choices(self._walk, self._head, choices, self._windows.numel(), report)


def _stitched(blocks: Sequence[Mapping[str, nn.Linear]], levels: Levels, room: int, prefix: Prefix) -> Change:
    """A block whose linears have as many zeros as the prefix says last."""
    if prefix[-1] is None:
        return RUN
    counts = dict(zip(blocks[len(prefix) - 1], cast(tuple[int, ...], prefix[-1]), strict=True))
    return inside(partial(_exchanged, blocks[len(prefix) - 1], levels, room, counts))


@contextmanager
def _exchanged(
    linears: Mapping[str, nn.Linear], levels: Levels, room: int, counts: Mapping[str, int]
) -> Iterator[None]:
    wanted = {name: linear for name, linear in linears.items() if counts[name]}
    with swapped(linears, {name: _realised(wanted[name], levels, name, counts[name], room) for name in wanted}):
        yield


# Outside of inference mode, where a caller is: decoded levels are kept for others, who may need gradients.
@torch.inference_mode(False)
@torch.no_grad()
def _realised(linear: nn.Linear, levels: Levels, name: str, count: int, room: int) -> Tensor:
    stored, dense = levels.linear(name), linear.weight.detach()

    def decode(level: int) -> Tensor:
        read = partial(stored.decode, level, dense.device)
        return levels.decoded.get(name, level, dense.device, read, room)

    return realise(stored, dense, count, decode)
