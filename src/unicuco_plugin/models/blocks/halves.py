"""Attentions and MLPs run one by one, as the blocks of a model with twice as many."""

import torch
from torch import Tensor

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.blocks.sublayers import silenced, sublayer_names

__all__ = ["HalfRunner", "step_names"]

# Tokens that are tried out, and how far rounding takes two ways of running a block apart, in sizes of what it adds.
_TOKENS, _WITHIN = 8, 0.05


class HalfRunner(BlockRunner):
    """Runs halves of blocks: place ``2 i`` is the attention of block ``i``, place ``2 i + 1`` its MLP.

    A half is run as its block with the other half silenced.

    Args:
        decoder: The dense model.
        length: Tokens of a window.

    Raises:
        UnsupportedModelError: If a half lies in no module of its own, or halves do not run one after the other.
    """

    def __init__(self, decoder: Decoder, length: int) -> None:
        super().__init__(decoder, length)
        pairs = list(zip(*sublayer_names(decoder), strict=True))
        self.halves = tuple(name for pair in pairs for name in pair)
        rows = decoder.model.get_input_embeddings().num_embeddings
        states = self.embed(torch.arange(min(_TOKENS, length))[None] % rows)
        for index, (attention, _) in enumerate(pairs):
            whole = super().run(index, states)
            apart = self.run(2 * index + 1, self.run(2 * index, states))
            if not (apart - whole).norm() <= _WITHIN * (whole - states).norm():
                raise UnsupportedModelError(
                    f"{attention.rpartition('.')[0]}: its attention and its MLP do not run one after the other, so "
                    "that no correction of one can stand for the next; leave compensation out"
                )
            states = whole

    @torch.no_grad()
    def run(self, index: int, states: Tensor) -> Tensor:
        """As that of blocks, with a half's place for ``index``."""
        with silenced(self.decoder, [self.halves[index ^ 1]]):
            return super().run(index // 2, states)


def step_names(runner: BlockRunner) -> tuple[str, ...]:
    """Full names of what a runner runs one by one: halves, or blocks."""
    return runner.halves if isinstance(runner, HalfRunner) else runner.decoder.block_names
