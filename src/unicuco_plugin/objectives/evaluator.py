"""Divergence of many candidates without some blocks or halves of blocks, sharing what work they have in common.

Notation
    n: blocks of the dense model; m: windows; L: tokens in a window; V: vocabulary
    gone: what a block lacks, ``KEPT``, ``NO_ATTENTION``, ``NO_MLP`` or ``DROPPED``, their sum; n to a candidate
    state: hidden states ``m x L x hidden`` between two blocks
"""

import time
from collections import OrderedDict
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from unicuco_plugin.models.decoder import Decoder
from unicuco_plugin.models.runner import BlockRunner
from unicuco_plugin.models.sublayers import silenced, sublayer_names
from unicuco_plugin.objectives.head import DivergenceHead
from unicuco_plugin.objectives.kl import Direction
from unicuco_plugin.objectives.objective import Evaluation

__all__ = ["DROPPED", "KEPT", "NO_ATTENTION", "NO_MLP", "BlockEvaluator", "lacking_parts"]

KEPT, NO_ATTENTION, NO_MLP, DROPPED = range(4)


def lacking_parts(decoder: Decoder, units: Collection[str]) -> list[int]:
    """What every block lacks without some sub-layers, given by full module name."""
    attentions, mlps = sublayer_names(decoder)
    return [NO_ATTENTION * (a in units) + NO_MLP * (m in units) for a, m in zip(attentions, mlps, strict=True)]


class BlockEvaluator:
    """Measures KL between a dense model and itself with blocks, or halves of blocks, removed, on fixed windows.

    The dense states before every block are computed once. A batch of candidates then walks the blocks in step: each
    distinct partial model is one node, run once however many candidates share it and kept for later batches while there
    is room; blocks before a candidate's first drop are not run at all. Logits exist for few positions at a time; the
    dense ones are recomputed from the dense final state, once per batch. The result is that of a plain forward of the
    really pruned model, to numerical noise.

    Args:
        decoder: The dense model, on the device to use; never modified beyond a call.
        windows: ``m x L`` token ids.
        direction: ``forward`` for KL(dense‖pruned), ``reverse`` for KL(pruned‖dense).
        batch_windows: Windows that pass a block together.
        cache_bytes: Most bytes of nodes' states to keep between batches, the least recently used going first.
        positions: Positions, over all models, whose logits exist at one time; at least two, a dense and a pruned one.
    """

    def __init__(
        self,
        decoder: Decoder,
        windows: Tensor,
        *,
        direction: Direction = "forward",
        batch_windows: int = 8,
        cache_bytes: int = 2**28,
        positions: int = 512,
    ) -> None:
        self._runner = BlockRunner(decoder, windows.shape[1])
        self._windows = windows
        self._head = DivergenceHead(self._runner, direction=direction, positions=positions)
        self._batch_windows = batch_windows
        self._dense: list[Tensor] = []
        self._kept: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()
        self._kept_bytes = 0
        self._cache_bytes = cache_bytes

    @property
    def tokens_per_candidate(self) -> int:
        """Scored positions of one evaluation."""
        return self._windows.numel()

    def evaluate(self, candidates: Sequence[Sequence[int]]) -> list[Evaluation]:
        """Measure candidates, each given by the indices of the blocks it drops.

        Returns:
            One evaluation per candidate, in order. Equal candidates are computed once.
        """
        count = len(self._runner.decoder.blocks)
        return self.evaluate_parts(
            [[DROPPED if index in dropped else KEPT for index in range(count)] for dropped in map(set, candidates)]
        )

    @torch.inference_mode()
    def evaluate_parts(self, candidates: Sequence[Sequence[int]]) -> list[Evaluation]:
        """Measure candidates, each given by what every block lacks.

        Returns:
            As :meth:`evaluate`.

        Raises:
            ValueError: If a candidate has not one number for every block.
            UnsupportedModelError: If half a block is to go and a block keeps it in no module of its own.
        """
        started = time.perf_counter()
        if not self._dense:
            self._dense = self._dense_states()
        lacks = [tuple(candidate) for candidate in candidates]
        if any(len(gone) != len(self._dense) - 1 for gone in lacks):
            raise ValueError(f"candidates must have one number for each of {len(self._dense) - 1} blocks")
        distinct = list(dict.fromkeys(lacks))
        finals = self._final_states(distinct)
        values = dict(zip(distinct, self._head.divergences(self._dense[-1], finals), strict=True))
        seconds = (time.perf_counter() - started) / max(len(lacks), 1)
        return [
            Evaluation(sum(values[gone]) / len(values[gone]), values[gone], self.tokens_per_candidate, seconds)
            for gone in lacks
        ]

    def _run(self, index: int, states: Tensor) -> Tensor:
        return torch.cat([self._runner.run(index, part) for part in states.split(self._batch_windows)])

    def _dense_states(self) -> list[Tensor]:
        states = [self._runner.embed(self._windows)]
        for index in range(len(self._runner.decoder.blocks)):
            states.append(self._run(index, states[-1]))
        return states

    def _final_states(self, lacks: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Walk all candidates through the blocks together; a node is a prefix of one, None while still dense."""
        nodes: list[tuple[int, ...] | None] = [None] * len(lacks)
        states: dict[tuple[int, ...], Tensor] = {}
        for index in range(len(self._dense) - 1):
            grown: dict[tuple[int, ...], Tensor] = {}
            for position, gone in enumerate(lacks):
                node = nodes[position]
                if node is None and gone[index] == KEPT:
                    continue
                longer = nodes[position] = gone[: index + 1]
                if longer not in grown:
                    before = self._dense[index] if node is None else states[node]
                    grown[longer] = before if gone[index] == DROPPED else self._walked(longer, before)
            states = grown
        return [self._dense[-1] if node is None else states[node] for node in nodes]

    def _walked(self, node: tuple[int, ...], before: Tensor) -> Tensor:
        """The states of a node whose last block is not dropped, from the cache if an earlier batch had it.

        Every node runs alone, on batches of windows that no other candidate changes: its states are the same bits
        whether they were kept or run again, so that a resumed run repeats the unbroken one.
        """
        if node in self._kept:
            self._kept.move_to_end(node)
            return self._kept[node]
        with silenced(self._runner.decoder, self._silent(len(node) - 1, node[-1])):
            found = self._run(len(node) - 1, before)
        self._kept[node] = found
        self._kept_bytes += found.nbytes
        while self._kept_bytes > self._cache_bytes:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return found

    def _silent(self, index: int, gone: int) -> list[str]:
        """The halves of a block that a candidate lacks, by full module name."""
        if gone == KEPT:
            return []
        attentions, mlps = sublayer_names(self._runner.decoder)
        return [names[index] for part, names in ((NO_ATTENTION, attentions), (NO_MLP, mlps)) if gone & part]
