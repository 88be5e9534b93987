"""Modules without some of their parts, for a while: nothing is computed for what is gone, nothing is copied whole."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch import Tensor, nn

from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import Parts, spread
from unicuco_plugin.models.tensors.forwards import replace_forward
from unicuco_plugin.models.tensors.sending import sent
from unicuco_plugin.models.tensors.storage import exchanged

__all__ = ["reduced"]

_Undo = Callable[[], None]


@contextmanager
def reduced(decoder: Decoder, kept: KeptParts, parts: Iterable[Parts]) -> Iterator[None]:
    """Take parts out of some modules, and add their biases, until the end of the ``with``.

    The result is that of the whole module with the output projection's columns of those parts zeroed.

    Args:
        decoder: The dense model; as it was afterwards, however it ends.
        kept: Which parts stay, and the biases.
        parts: The modules to change; others keep everything, whatever ``kept`` says.
    """
    restore: list[_Undo] = []
    try:
        for part in parts:
            module = decoder.model.get_submodule(part.name)
            indices = kept.kept.get(part.name, tuple(range(part.count)))
            # A module that keeps nothing stays whole and is not asked: attention over no head is not defined.
            taken = _take_out(decoder, module, part, indices) if indices else [_stand_in(module, part)]
            restore += taken
            bias = kept.biases.get(part.name)
            if bias is not None:
                restore.append(_add(module, bias))
        yield
    finally:
        for undo in reversed(restore):
            undo()


def _take_out(decoder: Decoder, module: nn.Module, part: Parts, indices: tuple[int, ...]) -> list[_Undo]:
    if len(indices) == part.count:
        return []
    counts = decoder.family.head_counts if part.kind == "attention" else ()
    undo = [_count_heads(module, counts, part.count, len(indices))]
    changed = ExitStack()
    for name, width in part.rows.items():
        changed.enter_context(_selected(module.get_submodule(name), ("weight", "bias"), 0, indices, width))
    output = module.get_submodule(part.projection)
    changed.enter_context(_selected(output, ("weight",), 1, indices, part.width))
    return [*undo, changed.close]


def _count_heads(module: nn.Module, names: Iterable[str], before: int, after: int) -> _Undo:
    """Let an attention that remembers its heads (StableLM) know how many are left of so many groups."""
    counts = {name: heads for name in names if isinstance(heads := vars(module).get(name), int)}
    vars(module).update({name: heads // before * after for name, heads in counts.items()})
    return lambda: vars(module).update(counts)


def _selected(
    linear: nn.Module, names: Iterable[str], dim: int, indices: tuple[int, ...], width: int
) -> AbstractContextManager[None]:
    """Let a linear compute with some rows or columns of its parameters; these are kept aside."""
    index = spread(indices, width)
    own = {name: value.detach() for name in names if (value := getattr(linear, name)) is not None}
    return exchanged(linear, {name: value.index_select(dim, sent(index, value.device)) for name, value in own.items()})


def _stand_in(module: nn.Module, part: Parts) -> _Undo:
    """Let a module give zeros; attentions return their weights beside, which nobody asks for."""

    def forward(_: nn.Module, hidden_states: Tensor, *__: object, **___: object) -> Tensor | tuple[Tensor, None]:
        zeros = torch.zeros_like(hidden_states)
        return (zeros, None) if part.kind == "attention" else zeros

    return replace_forward(module, forward)


def _add(module: nn.Module, bias: Tensor) -> _Undo:
    def add(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        if isinstance(output, tuple):
            return (output[0] + sent(bias, output[0].device).to(output[0]), *output[1:])
        return output + sent(bias, output.device).to(output)

    return module.register_forward_hook(add).remove
