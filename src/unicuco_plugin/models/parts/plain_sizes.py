"""Sizes that a family's own configuration can tell: the same for all blocks, biases in all or none."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.as_configured import check_structure
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.families.family import HALVES
from unicuco_plugin.models.families.known import family_of
from unicuco_plugin.models.parts.parts import linear_names

__all__ = ["plain_fields", "set_fields"]


def plain_fields(config: PreTrainedConfig, layers: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Say sizes in the family's own fields.

    Args:
        config: The dense model's configuration.
        layers: Sizes of every block in the schema of ``per_layer_config``.

    Returns:
        Fields and their values; None where blocks differ or the family has no field for a bias.
    """
    family = family_of(config)
    sizes = [(layer[family.attention.size], layer[family.mlp.size]) for layer in layers]
    if len(set(sizes)) > 1 or any("skip" in layer for layer in layers):
        return None
    groups, neurons = sizes[0]
    fields: dict[str, Any] = {}
    dense = getattr(config, family.attention.size)
    if groups != dense:
        heads = getattr(config, family.heads)
        fields["head_dim"] = getattr(config, "head_dim", None) or config.hidden_size // heads
        fields |= {family.heads: heads // dense * groups, family.attention.size: groups}
    if neurons != getattr(config, family.mlp.size):
        fields[family.mlp.size] = neurons
    for kind in sorted({kind for layer in layers for kind in layer.get("output_bias", ())}):
        field = family.half(kind).bias
        if not isinstance(vars(config).get(field), bool):
            return None
        fields[field] = True
    return fields


@torch.no_grad()
def set_fields(decoder: Decoder, fields: Mapping[str, Any]) -> None:
    """Tell a model its sizes; linears that must then have a bias get one of zeros.

    Raises:
        UnsupportedModelError: If the family refuses the values, or builds another model from them; the caller
            restores the model.
    """
    config = decoder.config
    try:
        for field, value in fields.items():
            setattr(config, field, value)
        # Some rules are held only when a configuration is read.
        type(config).from_dict(config.to_dict())
    except Exception as error:
        # Transformers, its configuration classes and the hub's checks raise errors of their own here.
        raise UnsupportedModelError(
            f"{config.model_type}: cannot be told these sizes: {error}; take --format stock (in a recipe format: stock)"
        ) from error
    for half in [half for half in HALVES if decoder.family.half(half).bias in fields]:
        for name in [name for index in range(len(decoder.blocks)) for name in decoder.halves(index)[half]]:
            module = decoder.model.get_submodule(name)
            children, names = dict(module.named_children()), linear_names(module, decoder.family.half(half))
            if children.keys() >= set(names):  # a hybrid's other modules have none
                for child in names:
                    _give_bias(children[child])
    check_structure(decoder.model)


def _give_bias(linear: nn.Module) -> None:
    if getattr(linear, "bias", None) is None:
        weight = linear.get_parameter("weight")
        dtype = weight.dtype if weight.is_floating_point() else None
        linear.bias = nn.Parameter(torch.zeros(weight.shape[0], device=weight.device, dtype=dtype))
