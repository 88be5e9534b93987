"""Head groups, neurons and modules silenced in their full shape: loads everywhere, and is no smaller."""

from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor, nn

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import Parts, find_parts
from unicuco_plugin.models.parts.plain_sizes import BIAS_FIELDS, set_fields
from unicuco_plugin.models.tensors.linears import Linears
from unicuco_plugin.models.tensors.storage import kept_tensors, read_kept, settle

__all__ = ["check_any_room", "check_room", "close_zeros", "zero_modules"]


def check_room(decoder: Decoder, parts: KeptParts) -> None:
    """Refuse biases that a family's own configuration cannot tell of.

    Raises:
        UnsupportedModelError: If its modules cannot be split into parts, or have no room for a bias.
    """
    found = find_parts(decoder)
    for name in parts.biases:
        if not _has_room(decoder, found[name]):
            _refuse(decoder, name, BIAS_FIELDS[found[name].kind])


def check_any_room(decoder: Decoder) -> None:
    """Refuse a family whose configuration cannot tell of any bias, before anyone asks which modules need one.

    Raises:
        UnsupportedModelError: If neither attentions nor MLPs have room for a bias, or cannot be split into parts.
    """
    found = find_parts(decoder)
    if not any(_has_room(decoder, part) for part in found.values()):
        _refuse(decoder, next(iter(found)), " or ".join(BIAS_FIELDS.values()))


def _has_room(decoder: Decoder, part: Parts) -> bool:
    own = getattr(decoder.model.get_submodule(part.output), "bias", None)
    return own is not None or isinstance(vars(decoder.config).get(BIAS_FIELDS[part.kind]), bool)


def _refuse(decoder: Decoder, name: str, field: str) -> NoReturn:
    raise UnsupportedModelError(
        f"{name}: {decoder.config.model_type} has no {field} that stock tools would read a bias for: take --format "
        "compact or --no-compensate (in a recipe format: compact, compensate: false)"
    )


@torch.no_grad()
def zero_modules(decoder: Decoder, parts: KeptParts) -> Callable[[], None]:
    """Zero the weights of everything that does not stay, and add the biases; shapes and configuration stay.

    Args:
        decoder: The dense model, changed in place; the linears that it had are not.
        parts: What stays, already checked.

    Returns:
        A function that puts the linears back; calling it again does nothing.
    """
    found, linears = find_parts(decoder), Linears()
    for name, kept in parts.kept.items():
        part, module = found[name], decoder.model.get_submodule(name)
        linears.remember(module)
        output = part.output.rpartition(".")[2]
        for child in (*part.rows, output):
            old = module.get_submodule(child)
            copied = _copy(old, bias=child == output and name in parts.biases)
            if child != output:
                for parameter in copied.parameters():
                    parameter[_gone(part, kept, part.rows[child]).to(parameter.device)] = 0
            else:
                copied.weight[:, _gone(part, kept, part.width).to(copied.weight.device)] = 0
                _set_bias(copied.bias, parts.biases.get(name), keep=bool(kept))
            setattr(module, child, settle(copied, old))
    return linears.restore


def close_zeros(decoder: Decoder, parts: KeptParts) -> frozenset[str]:
    """Let the configuration tell of the biases, and give one of zeros to the linears that must then have one.

    Returns:
        The configuration fields that changed.

    Raises:
        UnsupportedModelError: If the configuration builds another model than this one.
    """
    found = find_parts(decoder)
    fields = {BIAS_FIELDS[found[name].kind] for name in parts.biases}
    changed = {field for field in fields if vars(decoder.config).get(field) is False}
    set_fields(decoder, dict.fromkeys(changed, True))
    return frozenset(changed)


def _set_bias(own: Tensor | None, bias: Tensor | None, *, keep: bool) -> None:
    if own is not None and not keep:
        own.zero_()
    if own is not None and bias is not None:
        own.add_(bias.to(own))


def _copy(linear: nn.Module, *, bias: bool) -> nn.Linear:
    weight = read_kept(linear, "weight")
    own = read_kept(linear, "bias") if getattr(linear, "bias", None) is not None else None
    rows, columns = weight.shape
    made = nn.utils.skip_init(
        nn.Linear, columns, rows, bias=bias or own is not None, device=weight.device, dtype=weight.dtype
    )
    made.weight.copy_(weight)
    if made.bias is not None:
        made.bias.zero_() if own is None else made.bias.copy_(own)
    with kept_tensors():
        asks = linear.get_parameter("weight").requires_grad
    return made.requires_grad_(asks).train(linear.training)


def _gone(part: Parts, kept: tuple[int, ...], width: int) -> Tensor:
    """Mask over the rows or columns of parts that own ``width`` each."""
    gone = torch.ones(part.count, dtype=torch.bool)
    gone[list(kept)] = False
    return gone.repeat_interleave(width)
