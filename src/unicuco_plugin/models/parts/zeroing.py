"""Head groups, neurons and modules silenced in their full shape: loads everywhere, and is no smaller."""

from functools import partial
from typing import NoReturn

from torch import Tensor, nn

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.families.family import HALVES
from unicuco_plugin.models.parts.kept_parts import KeptParts, change_modules
from unicuco_plugin.models.parts.parts import Parts, find_parts, spread
from unicuco_plugin.models.parts.plain_sizes import set_fields
from unicuco_plugin.models.tensors.linears import linear_like
from unicuco_plugin.models.tensors.storage import read_kept, settle

__all__ = ["check_any_room", "check_room", "close_zeros", "zero_modules"]


def check_room(decoder: Decoder, parts: KeptParts) -> None:
    """Refuse biases that a family's own configuration cannot tell of.

    Raises:
        UnsupportedModelError: If its modules cannot be split into parts, or have no room for a bias.
    """
    found = find_parts(decoder)
    for name in parts.biases:
        if not _has_room(decoder, found[name]):
            _refuse(decoder, name, decoder.family.half(found[name].kind).bias)


def check_any_room(decoder: Decoder) -> None:
    """Refuse a family whose configuration cannot tell of any bias, before anyone asks which modules need one.

    Raises:
        UnsupportedModelError: If neither attentions nor MLPs have room for a bias, or cannot be split into parts.
    """
    found = find_parts(decoder)
    if not any(_has_room(decoder, part) for part in found.values()):
        _refuse(decoder, next(iter(found)), " or ".join(decoder.family.half(kind).bias for kind in HALVES))


def _has_room(decoder: Decoder, part: Parts) -> bool:
    own = getattr(decoder.model.get_submodule(part.output), "bias", None)
    return own is not None or isinstance(vars(decoder.config).get(decoder.family.half(part.kind).bias), bool)


def _refuse(decoder: Decoder, name: str, field: str) -> NoReturn:
    raise UnsupportedModelError(
        f"{name}: {decoder.config.model_type} has no {field} that stock tools would read a bias for: take --format "
        "compact or --no-compensate (in a recipe format: compact, compensate: false)"
    )


def _zero(module: nn.Module, part: Parts, kept: tuple[int, ...], bias: Tensor | None) -> None:
    gone = sorted(set(range(part.count)) - set(kept))
    for child, width in part.rows.items():
        old = module.get_submodule(child)
        copied = _copy(old)
        for parameter in copied.parameters():
            parameter[spread(gone, width).to(parameter.device)] = 0
        setattr(module, child, settle(copied, old))
    old = module.get_submodule(part.projection)
    copied = _copy(old, bias=bias is not None)
    copied.weight[:, spread(gone, part.width).to(copied.weight.device)] = 0
    _set_bias(copied.bias, bias, keep=bool(kept))
    setattr(module, part.projection, settle(copied, old))


zero_modules = partial(change_modules, change=_zero)
"""Zero the weights of everything that does not stay, and add the biases; shapes and configuration stay."""


def close_zeros(decoder: Decoder, parts: KeptParts) -> frozenset[str]:
    """Let the configuration tell of the biases, and give one of zeros to the linears that must then have one.

    Returns:
        The configuration fields that changed.

    Raises:
        UnsupportedModelError: If the configuration builds another model than this one.
    """
    found = find_parts(decoder)
    fields = {decoder.family.half(found[name].kind).bias for name in parts.biases}
    changed = {field for field in fields if vars(decoder.config).get(field) is False}
    set_fields(decoder, dict.fromkeys(changed, True))
    return frozenset(changed)


def _set_bias(own: Tensor | None, bias: Tensor | None, *, keep: bool) -> None:
    if own is not None and not keep:
        own.zero_()
    if own is not None and bias is not None:
        own.add_(bias.to(own))


def _copy(linear: nn.Module, *, bias: bool = False) -> nn.Linear:
    own = read_kept(linear, "bias") if getattr(linear, "bias", None) is not None else None
    made = linear_like(linear, bias=bias or own is not None)
    made.weight.copy_(read_kept(linear, "weight"))
    if made.bias is not None:
        made.bias.zero_() if own is None else made.bias.copy_(own)
    return made
