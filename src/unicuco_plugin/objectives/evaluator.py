"""Divergence of many block-drop candidates at once, sharing whatever work they have in common.

Notation
    n: blocks of the dense model; m: windows; L: tokens in a window; V: vocabulary
    keep: one bool per block; a candidate is the tuple of all n
    state: hidden states ``m x L x hidden`` between two blocks
"""

import time
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
    distinct partial model is one node, run once however many candidates share it, and blocks before a candidate's
    first drop are not run at all. Logits exist for few positions at a time; the dense ones are recomputed from the
    dense final state, once per batch. The result is that of a plain forward of the really pruned model, to numerical
    noise.

    Args:
        decoder: The dense model, on the device to use; never modified beyond a call.
        windows: ``m x L`` token ids.
        direction: ``forward`` for KL(dense‖pruned), ``reverse`` for KL(pruned‖dense).
        batch_windows: Windows that pass a block together.
        positions: Positions, over all models, whose logits exist at one time; at least two, a dense and a pruned one.
    """

    def __init__(
        self,
        decoder: Decoder,
        windows: Tensor,
        *,
        direction: Direction = "forward",
        batch_windows: int = 8,
        positions: int = 512,
    ) -> None:
        self._runner = BlockRunner(decoder, windows.shape[1])
        self._windows = windows
        self._head = DivergenceHead(self._runner, direction=direction, positions=positions)
        self._batch_windows = batch_windows
        self._dense: list[Tensor] = []

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
            running = {node: None for node, keep in zip(nodes, keeps, strict=True) if node is not None and keep[index]}
            grown: dict[tuple[bool, ...], Tensor] = {}
            if running:
                together = torch.cat([states[node] for node in running])
                parts = self._run(index, together).split(len(self._windows))
                grown.update({(*node, True): part for node, part in zip(running, parts, strict=True)})
            for position, keep in enumerate(keeps):
                node = nodes[position]
                if node is not None:
                    nodes[position] = (*node, keep[index])
                    if not keep[index]:
                        grown[(*node, False)] = states[node]
                elif not keep[index]:
                    nodes[position] = keep[: index + 1]
                    grown[keep[: index + 1]] = self._dense[index]
            states = grown
        return [self._dense[-1] if node is None else states[node] for node in nodes]
