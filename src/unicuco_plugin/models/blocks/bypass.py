"""Blocks switched off in place: they hand on what they are given."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unicuco_plugin.models.blocks.block_output import BlockOutput
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.tensors.forwards import replace_forward
from unicuco_plugin.models.tensors.storage import compute_device

__all__ = ["bypass_blocks", "bypassed"]


class _Probed(Exception):  # noqa: N818 - a signal, not an error
    """Carries a block's output out of the forward pass that is cut short."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output


def bypass_blocks(decoder: Decoder, indices: Iterable[int]) -> Callable[[], None]:
    """Make blocks return their hidden-states input, without touching weights or configuration.

    Logits equal those of the model that really lost these blocks, as long as no cache is used: a bypassed block
    writes nothing to the cache that Transformers reads the position from, so pass ``use_cache=False``.

    Args:
        decoder: The model's view.
        indices: Blocks to bypass, each once, in [0, blocks).

    Returns:
        A function that restores the blocks; calling it again does nothing.

    Raises:
        StrategyError: If an index is out of range or occurs twice, or no block would be left.
        UnsupportedModelError: If the blocks return nothing that begins with states.
    """
    chosen = decoder.check_indices(indices)
    if not chosen:
        return lambda: None
    form = _output_form(decoder)
    undo = [replace_forward(decoder.blocks[index], _pass(form)) for index in chosen]

    def restore() -> None:
        for put_back in undo:
            put_back()

    return restore


@contextmanager
def bypassed(decoder: Decoder, indices: Iterable[int]) -> Iterator[None]:
    """Bypass blocks inside a ``with``; they are restored however it ends. See :func:`bypass_blocks`.

    Raises:
        StrategyError: If an index is out of range or occurs twice, or no block would be left.
    """
    restore = bypass_blocks(decoder, indices)
    try:
        yield
    finally:
        restore()


def _pass(form: BlockOutput) -> Callable[..., Any]:
    def forward(self: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return form.of(hidden_states)

    return forward


@torch.no_grad()
def _output_form(decoder: Decoder) -> BlockOutput:
    """What this family's blocks return, asked of the first with one token: annotations in Transformers are not true."""

    def stop(_module: nn.Module, _inputs: object, output: object) -> None:
        raise _Probed(output)

    hook = decoder.blocks[0].register_forward_hook(stop)
    token = torch.zeros(1, 1, dtype=torch.long, device=compute_device(decoder.model))
    try:
        decoder.model(input_ids=token, use_cache=False)
    except _Probed as probed:
        return BlockOutput.read(probed.output, decoder.block_names[0])
    finally:
        hook.remove()
    return BlockOutput(None)
