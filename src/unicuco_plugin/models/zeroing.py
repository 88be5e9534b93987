"""Head groups, neurons and modules silenced in their full shape: loads everywhere, and is no smaller."""

from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor, nn

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.decoder import Decoder
from unicuco_plugin.models.kept_parts import KeptParts
from unicuco_plugin.models.linears import Linears
from unicuco_plugin.models.parts import Parts, find_parts
from unicuco_plugin.models.plain_sizes import BIAS_FIELDS, set_fields

__all__ = ["check_any_room", "check_room", "close_zeros", "zero_modules"]

# The linears of a module, and which attribute of its parts says how many outputs one of them owns.
_WIDTHS = {
    "attention": {"q_proj": "width", "k_proj": "head_dim", "v_proj": "head_dim", "o_proj": ""},
    "mlp": {"gate_proj": "width", "up_proj": "width", "down_proj": ""},
}


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
        for child in _WIDTHS[part.kind].keys() & dict(module.named_children()).keys():
            copied = _copy(module.get_submodule(child), bias=child == output and name in parts.biases)
            setattr(module, child, copied)
            for parameter in copied.parameters() if child != output else ():
                width = getattr(part, _WIDTHS[part.kind][child])
                parameter[_gone(part, kept, width).to(parameter.device)] = 0
        last = module.get_submodule(output)
        weight, bias = last.get_parameter("weight"), dict(last.named_parameters()).get("bias")
        weight[:, _gone(part, kept, part.width).to(weight.device)] = 0
        if bias is not None and not kept:
            bias.zero_()
        if bias is not None and name in parts.biases:
            bias.add_(parts.biases[name].to(bias))
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


def _copy(linear: nn.Module, *, bias: bool) -> nn.Linear:
    weight, own = linear.get_parameter("weight"), dict(linear.named_parameters()).get("bias")
    rows, columns = weight.shape
    made = nn.utils.skip_init(
        nn.Linear, columns, rows, bias=bias or own is not None, device=weight.device, dtype=weight.dtype
    )
    made.weight.copy_(weight)
    if made.bias is not None:
        made.bias.zero_() if own is None else made.bias.copy_(own)
    return made.requires_grad_(weight.requires_grad).train(linear.training)


def _gone(part: Parts, kept: tuple[int, ...], width: int) -> Tensor:
    """Mask over the rows or columns of parts that own ``width`` each."""
    gone = torch.ones(part.count, dtype=torch.bool)
    gone[list(kept)] = False
    return gone.repeat_interleave(width)
