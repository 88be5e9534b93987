"""Many partial models walked block by block together: what two have in common from the first block on runs once.

Notation
    change: what a candidate does to one block, any hashable value; None leaves it as it is, ``SKIPPED`` leaves it out
    node: the changes of a candidate up to some block, None while there are none
    state: hidden states ``m x L x hidden`` between two blocks
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.objectives.work import Tell, ignore

__all__ = ["SKIPPED", "PrefixWalk"]

SKIPPED = "skipped"


class PrefixWalk:
    """Final states of many candidates on fixed windows.

    The dense states before every block are computed once. A batch of candidates then walks the blocks in step: each
    distinct node runs once however many candidates share it and is kept for later batches while there is room; blocks
    before a candidate's first change are not run at all.

    Every node runs alone, on batches of windows that no other candidate changes: its states are the same bits whether
    they were kept or run again, so that a resumed run repeats the unbroken one.

    Args:
        runner: The dense model.
        windows: ``m x L`` token ids.
        changed: From a block's index and a change to a context in which the block is changed.
        batch_windows: Windows that pass a block together.
        cache_bytes: Most bytes of nodes' states to keep between batches, the least recently used going first.
    """

    def __init__(
        self,
        runner: BlockRunner,
        windows: Tensor,
        changed: Callable[[int, Hashable], AbstractContextManager[None]],
        *,
        batch_windows: int = 8,
        cache_bytes: int = 2**28,
    ) -> None:
        self._runner, self._windows, self._changed = runner, windows, changed
        self._batch_windows = batch_windows
        self._states: list[Tensor] = []
        self._kept: OrderedDict[tuple[Hashable, ...], Tensor] = OrderedDict()
        self._kept_bytes = 0
        self._cache_bytes = cache_bytes

    @property
    def dense(self) -> Tensor:
        """The dense model's final state, before the final norm."""
        return self._dense_states()[-1]

    def count(self, candidates: Sequence[tuple[Hashable, ...]]) -> int:
        """Blocks that :meth:`finals` will run, but for those that memory has no room to keep."""
        blocks = len(self._runner.decoder.blocks)
        nodes = set()
        for changes in candidates:
            first = next((index for index, change in enumerate(changes) if change is not None), len(changes))
            nodes |= {changes[: i + 1] for i in range(first, len(changes)) if changes[i] != SKIPPED}
        return len(nodes - self._kept.keys()) + (0 if self._states else blocks)

    def finals(self, candidates: Sequence[tuple[Hashable, ...]], tell: Tell = ignore) -> list[Tensor]:
        """The final state of every candidate, in order; that of one without a change *is* ``dense``.

        Args:
            candidates: One change for each block.
            tell: Called with 1 for each block that was run.

        Raises:
            ValueError: If a candidate has not one change for every block.
        """
        dense = self._dense_states(tell)
        if any(len(changes) != len(dense) - 1 for changes in candidates):
            raise ValueError(f"candidates must have one number for each of {len(dense) - 1} blocks")
        nodes: list[tuple[Hashable, ...] | None] = [None] * len(candidates)
        states: dict[tuple[Hashable, ...], Tensor] = {}
        for index in range(len(dense) - 1):
            grown: dict[tuple[Hashable, ...], Tensor] = {}
            for position, changes in enumerate(candidates):
                node = nodes[position]
                if node is None and changes[index] is None:
                    continue
                longer = nodes[position] = changes[: index + 1]
                if longer not in grown:
                    before = dense[index] if node is None else states[node]
                    grown[longer] = before if changes[index] == SKIPPED else self._walked(longer, before, tell)
            states = grown
        return [dense[-1] if node is None else states[node] for node in nodes]

    def _dense_states(self, tell: Tell = ignore) -> list[Tensor]:
        if not self._states:
            states = [torch.cat([self._runner.embed(part) for part in self._windows.split(self._batch_windows)])]
            for index in range(len(self._runner.decoder.blocks)):
                states.append(self._run(index, states[-1]))
                tell(1.0)
            self._states = states
        return self._states

    def _run(self, index: int, states: Tensor) -> Tensor:
        return torch.cat([self._runner.run(index, part) for part in states.split(self._batch_windows)])

    def _walked(self, node: tuple[Hashable, ...], before: Tensor, tell: Tell) -> Tensor:
        """The states of a node whose last block is not skipped, from the cache if an earlier batch had it."""
        if node in self._kept:
            self._kept.move_to_end(node)
            return self._kept[node]
        index, change = len(node) - 1, node[-1]
        if change is None:
            found = self._run(index, before)
        else:
            with self._changed(index, change):
                found = self._run(index, before)
        tell(1.0)
        self._kept[node] = found
        self._kept_bytes += found.nbytes
        while self._kept_bytes > self._cache_bytes:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return found
