"""Divergence of many block-drop candidates at once, sharing whatever work they have in common.

Notation
    n: blocks of the dense model; m: windows; L: tokens in a window; V: vocabulary
    keep: one bool per block; a candidate is the tuple of all n
    state: hidden states ``m x L x hidden`` between two blocks
"""

import time
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from unicuco_plugin.models.decoder import Decoder
from unicuco_plugin.models.runner import BlockRunner
from unicuco_plugin.objectives.head import DivergenceHead
from unicuco_plugin.objectives.kl import Direction
from unicuco_plugin.objectives.objective import Evaluation

__all__ = ["BlockEvaluator"]


class BlockEvaluator:
    """Measures KL between a dense model and itself with blocks removed, on fixed windows.

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
        self._kept: OrderedDict[tuple[bool, ...], Tensor] = OrderedDict()
        self._kept_bytes = 0
        self._cache_bytes = cache_bytes

    @property
    def tokens_per_candidate(self) -> int:
        """Scored positions of one evaluation."""
        return self._windows.numel()

    @torch.inference_mode()
    def evaluate(self, candidates: Sequence[Sequence[int]]) -> list[Evaluation]:
        """Measure candidates, each given by the indices of the blocks it drops.

        Returns:
            One evaluation per candidate, in order. Equal candidates are computed once.
        """
        started = time.perf_counter()
        if not self._dense:
            self._dense = self._dense_states()
        count = len(self._runner.decoder.blocks)
        keeps = [tuple(index not in set(dropped) for index in range(count)) for dropped in candidates]
        distinct = list(dict.fromkeys(keeps))
        finals = self._final_states(distinct)
        values = dict(zip(distinct, self._head.divergences(self._dense[-1], finals), strict=True))
        seconds = (time.perf_counter() - started) / max(len(keeps), 1)
        return [
            Evaluation(sum(values[keep]) / len(values[keep]), values[keep], self.tokens_per_candidate, seconds)
            for keep in keeps
        ]

    def _run(self, index: int, states: Tensor) -> Tensor:
        return torch.cat([self._runner.run(index, part) for part in states.split(self._batch_windows)])

    def _dense_states(self) -> list[Tensor]:
        states = [self._runner.embed(self._windows)]
        for index in range(len(self._runner.decoder.blocks)):
            states.append(self._run(index, states[-1]))
        return states

    def _final_states(self, keeps: Sequence[tuple[bool, ...]]) -> list[Tensor]:
        """Walk all candidates through the blocks together; a node is a kept-prefix, None while still dense."""
        nodes: list[tuple[bool, ...] | None] = [None] * len(keeps)
        states: dict[tuple[bool, ...], Tensor] = {}
        for index in range(len(self._dense) - 1):
            grown: dict[tuple[bool, ...], Tensor] = {}
            for position, keep in enumerate(keeps):
                node = nodes[position]
                if node is None and keep[index]:
                    continue
                longer = nodes[position] = keep[: index + 1]
                if longer not in grown:
                    before = self._dense[index] if node is None else states[node]
                    grown[longer] = self._walked(longer, before) if keep[index] else before
            states = grown
        return [self._dense[-1] if node is None else states[node] for node in nodes]

    def _walked(self, node: tuple[bool, ...], before: Tensor) -> Tensor:
        """The states of a node whose last block is kept, from the cache if an earlier batch had it.

        Every node runs alone, on batches of windows that no other candidate changes: its states are the same bits
        whether they were kept or run again, so that a resumed run repeats the unbroken one.
        """
        if node in self._kept:
            self._kept.move_to_end(node)
            return self._kept[node]
        found = self._run(len(node) - 1, before)
        self._kept[node] = found
        self._kept_bytes += found.nbytes
        while self._kept_bytes > self._cache_bytes:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return found
