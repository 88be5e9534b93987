"""Divergence of models that lack some attentions and MLPs: a sub-layer that is removed adds zero."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unicuco_plugin.errors import RequestError
from unicuco_plugin.models.decoder import Decoder
from unicuco_plugin.models.runner import BlockRunner
from unicuco_plugin.objectives.head import DivergenceHead

__all__ = ["HALVES", "SublayerEvaluator", "silenced", "sublayer_names"]

HALVES = ("attention", "mlp")


def sublayer_names(decoder: Decoder) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Full module names of all attentions and of all MLPs, one for each block.

    Raises:
        RequestError: If a block keeps one of the two in no module of its own.
    """
    found: tuple[list[str], list[str]] = ([], [])
    for index, block in enumerate(decoder.block_names):
        for half, names in zip(HALVES, found, strict=True):
            name = decoder.sublayers(index).get(half)
            if name is None:
                raise RequestError(f"space sublayer needs each {half} as one module, {block} has none")
            names.append(name)
    return tuple(found[0]), tuple(found[1])


@contextmanager
def silenced(decoder: Decoder, names: Iterable[str]) -> Iterator[None]:
    """Let sub-layers give zeros until the end of the block."""

    def zero(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        if isinstance(output, tuple):
            return (torch.zeros_like(output[0]), *output[1:])
        return torch.zeros_like(output)

    hooks = [decoder.model.get_submodule(name).register_forward_hook(zero) for name in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class SublayerEvaluator:
    """Measures KL between a dense model and itself without some sub-layers, on fixed windows.

    Args:
        decoder: The dense model; as it was after every call.
        windows: ``m x L`` token ids.
        batch_windows: Windows that pass a block together.

    Raises:
        RequestError: See :func:`sublayer_names`.
    """

    def __init__(self, decoder: Decoder, windows: Tensor, *, batch_windows: int = 16) -> None:
        self._attentions, self._mlps = sublayer_names(decoder)
        self._runner = BlockRunner(decoder, windows.shape[1])
        self._head = DivergenceHead(self._runner)
        self._windows = windows
        self._batch_windows = batch_windows

    @torch.inference_mode()
    def divergences(self, genomes: Sequence[Sequence[int]]) -> list[float]:
        """Mean divergence per token of candidates, nats.

        Args:
            genomes: ``2 n`` entries each, 1 where a sub-layer is removed: all attentions, then all MLPs.
        """
        embedded = torch.cat([self._runner.embed(part) for part in self._windows.split(self._batch_windows)])
        dense = self._final(embedded)
        finals = []
        for genome in genomes:
            names = [name for name, gone in zip((*self._attentions, *self._mlps), genome, strict=True) if gone]
            with silenced(self._runner.decoder, names):
                finals.append(self._final(embedded) if names else dense)
        return [sum(windows) / len(windows) for windows in self._head.divergences(dense, finals)]

    def _final(self, states: Tensor) -> Tensor:
        for index in range(len(self._attentions)):
            states = torch.cat([self._runner.run(index, part) for part in states.split(self._batch_windows)])
        return states
