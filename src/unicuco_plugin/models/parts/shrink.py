"""Head groups, neurons and whole modules taken out of a live model, so that it is smaller and says so.

In two steps, so that the toolkit can calibrate in between: linears become smaller at once; modules that go whole, and
what the configuration says, wait until nobody looks for them by name.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.as_configured import check_structure
from unicuco_plugin.models.blocks.config import block_overrides
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.surgery import drop_blocks
from unicuco_plugin.models.checkpoints.loadability import has_own_code
from unicuco_plugin.models.families.family import HALVES, Kind
from unicuco_plugin.models.families.known import USUAL
from unicuco_plugin.models.parts.kept_parts import KeptParts, change_modules
from unicuco_plugin.models.parts.modeling_compact import (
    RemovedAttention,
    RemovedMLP,
    auto_map,
    compact_class,
    resize_attention,
    resize_mlp,
)
from unicuco_plugin.models.parts.parts import Parts, find_parts, leaving_blocks, spread
from unicuco_plugin.models.parts.plain_sizes import plain_fields, set_fields
from unicuco_plugin.models.tensors.linears import linear_like
from unicuco_plugin.models.tensors.snapshot import Snapshot
from unicuco_plugin.models.tensors.storage import (
    kept_device,
    kept_tensors,
    materialise,
    read_kept,
    settle,
    write_tensor,
)

__all__ = ["NAMES", "check_shrinkable", "close_shape", "gone_blocks", "has_compact_names", "slice_modules"]

# The modules that the compact form's code looks for, and their linears.
NAMES: Mapping[Kind, str] = {kind: USUAL.half(kind).names[0] for kind in HALVES}
_LINEARS = tuple(USUAL.half(kind).linears[0] for kind in HALVES)


def check_shrinkable(decoder: Decoder) -> dict[str, Parts]:
    """Refuse a model that no loader could build in other sizes.

    Returns:
        The parts of its modules.

    Raises:
        UnsupportedModelError: If its modules cannot be split into parts, its blocks lie elsewhere than the modelling
            file looks for them, or this Transformers knows no sizes for single layers.
    """
    label = type(decoder.model).__name__
    parts = find_parts(decoder)
    if getattr(decoder.model.base_model, "layers", None) is not decoder.blocks or decoder.config is not (
        decoder.model.config
    ):
        raise UnsupportedModelError(
            f"{label}: its blocks must be {decoder.model.base_model_prefix}.layers; take --format stock (in a recipe "
            "format: stock)"
        )
    for name, part in parts.items():
        if name.rpartition(".")[2] not in NAMES.values() or not has_compact_names(part):
            raise UnsupportedModelError(
                f"{label}: the compact form needs modules {' and '.join(NAMES.values())} in every block, "
                f"got {name}; take --format stock (in a recipe format: stock)"
            )
    if len(parts) < 2 * len(decoder.blocks):
        whole = next(block for block in decoder.block_names if block not in leaving_blocks(decoder, parts))
        raise UnsupportedModelError(
            f"{label}: {whole} has modules without parts, and the compact form has a size for every attention and MLP; "
            "take --format stock (in a recipe format: stock)"
        )
    for part in parts.values():
        if getattr(decoder.config, field := decoder.family.half(part.kind).size, None) != part.count:
            raise UnsupportedModelError(
                f"{part.name}: has {part.count} parts, but the configuration's {field} differs; take --format stock "
                "(in a recipe format: stock)"
            )
    if block_overrides(decoder.config):
        raise UnsupportedModelError(
            f"{label}: its configuration gives single blocks sizes of their own, which the compact form would write "
            "over; take --format stock (in a recipe format: stock), or the space depth or sublayer"
        )
    if has_own_code(decoder.model):
        raise UnsupportedModelError(
            f"{label}: comes with code of its own, which builds all blocks in one size; take --format stock (in a "
            "recipe format: stock), or the space depth or sublayer"
        )
    if not hasattr(decoder.config, "is_heterogeneous"):
        raise UnsupportedModelError(f"{label}: structured pruning needs a Transformers with per_layer_config (5.17)")
    return parts


def has_compact_names(part: Parts) -> bool:
    """Whether a module's linears have the names that the compact form's code looks for."""
    return (*part.rows, part.projection) in _LINEARS


def gone_blocks(decoder: Decoder, parts: KeptParts) -> tuple[int, ...]:
    """Blocks of which nothing is left, not even a bias."""
    gone = set(parts.removed) - set(parts.biases)
    blocks = enumerate(decoder.block_names)
    return tuple(index for index, block in blocks if gone >= {f"{block}.{name}" for name in NAMES.values()})


def _slice(module: nn.Module, part: Parts, kept: tuple[int, ...], bias: Tensor | None) -> None:
    old = dict(module.named_children())
    if not kept:
        setattr(module, part.projection, _silent(old[part.projection], bias))
        return
    resize = resize_attention if part.kind == "attention" else resize_mlp
    with kept_tensors():  # new linears lie where the old ones are kept
        resize(module, len(kept), bias=bias is not None)
    for child, width in part.rows.items():
        _copy_rows(old[child], module.get_submodule(child), spread(kept, width))
    columns = spread(kept, part.width)
    _copy_columns(old[part.projection], module.get_submodule(part.projection), columns, bias)


slice_modules = partial(change_modules, change=_slice)
"""Make modules that keep some of their parts smaller, and give them their biases; the configuration stays.

Modules that go whole stay for now, with an output projection of zeros and their bias.
"""


def _silent(output: nn.Module, bias: Tensor | None) -> nn.Module:
    silent = linear_like(output, bias=bias is not None)
    silent.weight.zero_()
    if bias is not None:
        silent.bias.copy_(bias)
    return settle(silent, output)


@torch.no_grad()
def close_shape(decoder: Decoder, parts: KeptParts) -> frozenset[str]:
    """Take out what goes whole and let the configuration say so; the model is sliced already.

    Returns:
        The configuration fields that changed.

    Raises:
        UnsupportedModelError: If the configuration builds another model than this one.
    """
    model, gone = decoder.model, gone_blocks(decoder, parts)
    before, names = decoder.config.to_dict(), decoder.block_names
    for name in parts.removed:
        if names.index(name.rpartition(".")[0]) not in gone:
            _put_removed(decoder, name, parts.biases.get(name))
    drop_blocks(model, gone, check=False)
    stay = [name for index, name in enumerate(names) if index not in gone]
    _describe(decoder, [_layer_sizes(decoder, name, parts) for name in stay])
    for field in decoder.family.drafts & vars(decoder.config).keys():
        # Their heads keep the dense sizes, which nobody could tell from this configuration.
        setattr(decoder.config, field, 0)
    check_structure(model)
    after = decoder.config.to_dict()
    return frozenset(field for field in after if field not in before or after[field] != before[field])


def _put_removed(decoder: Decoder, name: str, bias: Tensor | None) -> None:
    parent, _, child = name.rpartition(".")
    block, embedding = decoder.model.get_submodule(parent), decoder.model.get_input_embeddings()
    old, width, biased = block.get_submodule(child), decoder.config.hidden_size, bias is not None
    removed: RemovedMLP = (
        RemovedAttention(width, bias=biased, layer_idx=old.layer_idx)
        if child == NAMES["attention"]
        else RemovedMLP(width, bias=biased)
    )
    if removed.bias is not None and bias is not None:
        removed.bias.copy_(bias)
    with kept_tensors():
        dtype = embedding.get_parameter("weight").dtype
    setattr(block, child, settle(removed.to(kept_device(embedding), dtype).train(old.training), embedding))


def _layer_sizes(decoder: Decoder, block: str, parts: KeptParts) -> dict[str, Any]:
    """One block's sizes in Transformers' schema."""
    names = {kind: f"{block}.{name}" for kind, name in NAMES.items()}
    sizes: dict[str, Any] = {}
    for kind, name in names.items():
        field = decoder.family.half(kind).size
        sizes[field] = len(parts.kept[name]) if name in parts.kept else getattr(decoder.config, field)
    skip = [kind for kind, name in names.items() if name in parts.removed]
    biased = [kind for kind, name in names.items() if name in parts.biases]
    return sizes | ({"skip": skip} if skip else {}) | ({"output_bias": biased} if biased else {})


def _describe(decoder: Decoder, layers: list[dict[str, Any]]) -> None:
    """Write the sizes into the configuration: as the family's own where they are the same for all blocks."""
    model, config = decoder.model, decoder.config
    plain = plain_fields(config, layers)
    if plain is not None:
        snapshot = Snapshot(model)
        try:
            set_fields(decoder, plain)
        except UnsupportedModelError:
            snapshot.restore()  # the family cannot be told these sizes
        else:
            return
    if any("output_bias" in sizes for sizes in layers):
        config.output_bias = []
    config.per_layer_config = dict(enumerate(layers))
    kind: Any = type(model)
    model.__class__ = compact_class(kind)
    config.auto_map = auto_map(model.__class__)


def _copy_rows(old: nn.Module, new: nn.Module, rows: Tensor) -> None:
    if new is not old:
        materialise(new, old)
        for name, parameter in new.named_parameters():
            kept = read_kept(old, name)
            parameter.copy_(kept.index_select(0, rows.to(kept.device)))
        settle(new, old)


def _copy_columns(old: nn.Module, new: nn.Module, columns: Tensor, bias: Tensor | None) -> None:
    own = read_kept(old, "bias") if getattr(old, "bias", None) is not None else None
    if new is not old:
        materialise(new, old)
        kept = read_kept(old, "weight")
        new.get_parameter("weight").copy_(kept.index_select(1, columns.to(kept.device)))
        if own is not None:
            new.get_parameter("bias").copy_(own)
        elif bias is not None:
            new.get_parameter("bias").zero_()
        settle(new, old)
    if bias is not None:
        before = read_kept(new, "bias")
        write_tensor(new, "bias", before + bias.to(before))
