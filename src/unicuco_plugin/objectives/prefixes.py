"""Many partial models walked block by block together: what two have in common from the first block on runs once.

Notation
    choice: what a candidate decides for one block, any hashable value; None leaves it as it is
    prefix: the choices of a candidate up to some block, that of the block last
    change: how states pass a block, given the prefix that ends there
    node: a prefix that is not all None; None while there are no other choices
    state: hidden states ``m x L x hidden`` between two blocks
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.memory import spare_memory
from unicuco_plugin.models.tensors.storage import resident
from unicuco_plugin.objectives.work import Tell, ignore

__all__ = ["RUN", "SKIP", "Change", "Prefix", "PrefixWalk", "inside"]

Prefix = tuple[Hashable, ...]
_Block = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Change:
    """How the states of a candidate pass one block.

    Attributes:
        passes: From the dense block, as a function of states, and the states that reach it to those that leave; what
            returns the very states it was given costs nothing and is not kept.
        runs: How often it runs the block.
    """

    passes: Callable[[_Block, Tensor], Tensor]
    runs: int = 1


RUN = Change(lambda block, states: block(states))
"""The block as it is."""
SKIP = Change(lambda _, states: states, runs=0)
"""Past the block: it drops out."""


def inside(changed: Callable[[], AbstractContextManager[None]]) -> Change:
    """Through the block inside a context in which it is changed."""

    def passes(block: _Block, states: Tensor) -> Tensor:
        with changed():
            return block(states)

    return Change(passes)


class PrefixWalk:
    """Final states of many candidates on fixed windows.

    The dense states before every block are computed once, and kept in memory of the host where the device has little
    room for them. A batch of candidates walks the blocks in step, so that an offloaded block is read once for all that
    pass it: each distinct node runs once however many candidates share it and is kept for later batches while there is
    room; blocks before a candidate's first choice are not run at all. A node is known by its whole prefix, so what
    happens in a block may depend on all that was chosen before it.

    Every node runs alone, on batches of windows that no other candidate changes: its states are the same bits whether
    they were kept or run again, so that a resumed run repeats the unbroken one.

    Args:
        runner: The dense model.
        windows: ``m x L`` token ids.
        change: From a prefix that is not all None to what happens in the block where it ends; equal prefixes must get
            equal changes. Asked also where the last choice is None.
        batch_windows: Windows that pass a block together.
        cache_bytes: Most bytes of nodes' states to keep between batches, the least recently used going first.
    """

    def __init__(
        self,
        runner: BlockRunner,
        windows: Tensor,
        change: Callable[[Prefix], Change],
        *,
        batch_windows: int = 8,
        cache_bytes: int = 2**28,
    ) -> None:
        self._runner, self._windows, self._change = runner, windows, change
        self._batch_windows = batch_windows
        self._states: list[Tensor] = []
        self._on_host = False
        self._kept: OrderedDict[Prefix, Tensor] = OrderedDict()
        self._kept_bytes = 0
        self._cache_bytes = cache_bytes

    @property
    def dense(self) -> Tensor:
        """The dense model's final state, before the final norm."""
        self.finals([])
        return self._states[-1]

    def count(self, candidates: Sequence[Prefix]) -> int:
        """Blocks that :meth:`finals` will run, but for those that memory has no room to keep."""
        nodes = set()
        for choices in candidates:
            first = next((index for index, choice in enumerate(choices) if choice is not None), len(choices))
            nodes |= {choices[: i + 1] for i in range(first, len(choices))}
        dense = len(self._runner.decoder.blocks) - max(len(self._states) - 1, 0)
        return sum(self._change(node).runs for node in nodes - self._kept.keys()) + dense

    def finals(self, candidates: Sequence[Prefix], tell: Tell = ignore) -> list[Tensor]:
        """The final state of every candidate, in order; that of one that chooses nothing *is* ``dense``.

        Args:
            candidates: One choice for each block.
            tell: Called with how often a block was run, whenever one was.

        Raises:
            ValueError: If a candidate has not one choice for every block.
        """
        blocks, dense = len(self._runner.decoder.blocks), self._states
        if any(len(choices) != blocks for choices in candidates):
            raise ValueError(f"candidates must have one number for each of {blocks} blocks")
        if not dense:
            first = torch.cat([self._runner.embed(part) for part in self._windows.split(self._batch_windows)])
            self._on_host = (blocks + 1) * first.nbytes > spare_memory(first.device)
            dense.append(self._put(first))
        nodes: list[Prefix | None] = [None] * len(candidates)
        states: dict[Prefix, Tensor] = {}
        for index in range(blocks):
            grown: dict[Prefix, Tensor] = {}
            with resident():  # nothing but this block is run
                if len(dense) == index + 1:
                    dense.append(self._put(self._run(index, dense[index])))
                    tell(1.0)
                for position, choices in enumerate(candidates):
                    node = nodes[position]
                    if node is None and choices[index] is None:
                        continue
                    longer = nodes[position] = choices[: index + 1]
                    if longer not in grown:
                        grown[longer] = self._walked(longer, dense[index] if node is None else states[node], tell)
            states = grown
        return [dense[-1] if node is None else states[node] for node in nodes]

    def shed(self) -> None:
        """Let go of all nodes' states, and keep half as many from now on: memory has no room for them."""
        if self._kept_bytes:
            self._cache_bytes = self._kept_bytes // 2
        self._kept.clear()
        self._kept_bytes = 0

    def _put(self, states: Tensor) -> Tensor:
        """Dense states where all of them have room; the runner takes them from there."""
        return states.cpu() if self._on_host else states

    def _run(self, index: int, states: Tensor) -> Tensor:
        return torch.cat([self._runner.run(index, part) for part in states.split(self._batch_windows)])

    def _walked(self, node: Prefix, before: Tensor, tell: Tell) -> Tensor:
        """The states of a node, from the cache if an earlier batch had it."""
        if node in self._kept:
            self._kept.move_to_end(node)
            return self._kept[node]
        change = self._change(node)
        found = change.passes(partial(self._run, len(node) - 1), before)
        if found is before:
            return found
        tell(change.runs)
        self._kept[node] = found
        self._kept_bytes += found.nbytes
        while self._kept_bytes > self._cache_bytes:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return found
