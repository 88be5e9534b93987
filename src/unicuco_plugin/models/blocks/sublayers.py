"""A block's two halves, attention and MLP, removed separately: one that is removed adds zero."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.families.family import HALVES
from unicuco_plugin.models.tensors.storage import (
    compute_device,
    count_parameters,
    exchanged,
    kept_tensors,
    read_kept,
    write_tensor,
)

__all__ = [
    "check_outputs",
    "check_silence",
    "output_parameters",
    "silenced",
    "sublayer_names",
    "sublayer_params",
    "zero_outputs",
]

# A sub-layer's output: its states, alone or first of several values.
_Output: TypeAlias = Tensor | tuple[Tensor, ...] | list[Tensor]


def sublayer_names(decoder: Decoder) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Full module names of all attentions and of all MLPs, one for each block.

    Raises:
        UnsupportedModelError: If a block keeps one of the two in no module of its own.
    """
    found: tuple[list[str], list[str]] = ([], [])
    for index, block in enumerate(decoder.block_names):
        for half, names in zip(HALVES, found, strict=True):
            name = decoder.sublayers(index).get(half)
            if name is None:
                several = " beside ".join(other.rpartition(".")[2] for other in decoder.halves(index)[half])
                raise UnsupportedModelError(
                    f"{block}: has {several or 'no module'} as its {half}, which the spaces sublayer and structured "
                    "need in one module; take the space depth"
                )
            names.append(name)
    return tuple(found[0]), tuple(found[1])


def sublayer_params(decoder: Decoder) -> dict[str, int]:
    """Parameters of every attention and MLP by full module name, block after block.

    Norms belong to neither: they go with the block.

    Raises:
        UnsupportedModelError: See :func:`sublayer_names`.
    """
    names = [name for pair in zip(*sublayer_names(decoder), strict=True) for name in pair]
    return {name: count_parameters(decoder.model.get_submodule(name)) for name in names}


def check_outputs(decoder: Decoder) -> None:
    """Refuse a model of whose sub-layers one has no output projection that could be zeroed; reads no weight.

    Raises:
        UnsupportedModelError: If there is such a one, or see :func:`sublayer_names`.
    """
    for name in sublayer_params(decoder):
        output_parameters(decoder, name)


@contextmanager
def silenced(decoder: Decoder, names: Iterable[str]) -> Iterator[None]:
    """Let sub-layers give zeros until the end of the ``with``."""

    def zero(_: nn.Module, __: object, output: _Output) -> _Output:
        if isinstance(output, Tensor):
            return torch.zeros_like(output)
        return type(output)([torch.zeros_like(output[0]), *output[1:]])

    hooks = [decoder.model.get_submodule(name).register_forward_hook(zero) for name in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def zero_outputs(decoder: Decoder, names: Iterable[str]) -> Callable[[], None]:
    """Zero the output projection of sub-layers, and make sure that they then give nothing but zeros.

    Args:
        decoder: The model, changed in place.
        names: Full module names of attentions and MLPs.

    Returns:
        A function that puts the weights back; calling it again does nothing.

    Raises:
        UnsupportedModelError: If a sub-layer has no output projection that is known, or still gives something without
            it; the model is then as it was.
    """
    outputs = _Outputs()
    chosen = list(names)
    try:
        for name in chosen:
            outputs.zero(decoder, name)
        if chosen:
            _watch(decoder, chosen)
    except BaseException:
        outputs.restore()
        raise
    return outputs.restore


@torch.no_grad()
def check_silence(decoder: Decoder, names: Sequence[str] | None = None) -> None:
    """Make sure that attentions and MLPs give nothing but zeros without their output projection.

    A sub-layer that adds the states itself (MPT's MLP, both of Bloom's) does not: its zeros would cut the stream.

    Args:
        decoder: The model; as it was afterwards, and nothing is written. Two tokens pass it once, zeros standing in for
            one projection at a time.
        names: Their full names; every attention and MLP if left out.

    Raises:
        UnsupportedModelError: As :func:`zero_outputs` of all of them would.
    """
    if names is None:
        names = [name for half in sublayer_names(decoder) for name in half]
    zeros = ExitStack()

    def stand_in(name: str, *_: object) -> None:
        for module, parameter in output_parameters(decoder, name):
            zeros.enter_context(exchanged(module, {parameter: torch.zeros_like(getattr(module, parameter))}))

    hooks = []
    try:
        for name in names:
            module = decoder.model.get_submodule(name)
            hooks.append(module.register_forward_pre_hook(partial(stand_in, name)))
            hooks.append(module.register_forward_hook(lambda *_: zeros.close()))
        _watch(decoder, names)
    finally:
        zeros.close()
        for hook in hooks:
            hook.remove()


class _Outputs:
    """Output projections that were zeroed, and what they held."""

    def __init__(self) -> None:
        self._before: list[tuple[nn.Module, str, Tensor]] = []

    def zero(self, decoder: Decoder, name: str) -> None:
        """Zero those of one sub-layer."""
        for module, parameter in output_parameters(decoder, name):
            values = read_kept(module, parameter)
            self._before.append((module, parameter, values.clone()))
            write_tensor(module, parameter, torch.zeros_like(values))

    def restore(self) -> None:
        """Put everything back; calling it again does nothing."""
        while self._before:
            write_tensor(*self._before.pop())


def output_parameters(decoder: Decoder, name: str) -> list[tuple[nn.Module, str]]:
    """Weights and biases of a sub-layer's last linear, of every expert's where there are experts: whose, and which."""
    outputs = decoder.family.outputs
    with kept_tensors():
        names = [inner for inner, _ in decoder.model.get_submodule(name).named_parameters()]
    # Experts that a family fuses keep their projections as parameters, not as modules.
    found = [
        (decoder.model.get_submodule(f"{name}.{inner}".rpartition(".")[0]), inner.rpartition(".")[2])
        for inner in names
        if re.sub(r"\.weight$|[._]bias$", "", inner).rpartition(".")[2] in outputs
    ]
    if not found:
        raise UnsupportedModelError(
            f"{name}: has no output projection named as in {', '.join(outputs)}; take the space depth"
        )
    return found


def _watch(decoder: Decoder, names: Sequence[str]) -> None:
    """Run the model on two tokens, and refuse the first of the sub-layers that gives anything but zeros."""

    def look(name: str, _: nn.Module, __: object, output: _Output) -> None:
        if bool((output if isinstance(output, Tensor) else output[0]).count_nonzero()):
            raise UnsupportedModelError(
                f"{name}: gives more than zeros without its output projection; take the space depth"
            )

    hooks = [decoder.model.get_submodule(name).register_forward_hook(partial(look, name)) for name in names]
    try:
        ids = torch.arange(2, device=compute_device(decoder.model))[None]
        decoder.model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
