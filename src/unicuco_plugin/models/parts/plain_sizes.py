"""Sizes that a family's own configuration can tell: the same for all blocks, biases in all or none."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.structure import check_structure

__all__ = ["BIAS_FIELDS", "SIZE_FIELDS", "plain_fields", "set_fields"]

# How many parts a module of a kind has.
SIZE_FIELDS = {"attention": "num_key_value_heads", "mlp": "intermediate_size"}
# Where a family can be told that all linears of such modules have biases.
BIAS_FIELDS = {"attention": "attention_bias", "mlp": "mlp_bias"}
_BIASED = {"attention_bias": ("self_attn", ("q_proj", "k_proj", "v_proj", "o_proj")),
           "mlp_bias": ("mlp", ("gate_proj", "up_proj", "down_proj"))}  # fmt: skip


def plain_fields(config: PreTrainedConfig, layers: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Say sizes in the family's own fields.

    Args:
        config: The dense model's configuration.
        layers: Sizes of every block in the schema of ``per_layer_config``.

    Returns:
        Fields and their values; None where blocks differ or the family has no field for a bias.
    """
    sizes = [tuple(layer[field] for field in SIZE_FIELDS.values()) for layer in layers]
    if len(set(sizes)) > 1 or any("skip" in layer for layer in layers):
        return None
    groups, neurons = sizes[0]
    fields: dict[str, Any] = {}
    if groups != config.num_key_value_heads:
        heads = config.num_attention_heads
        fields["head_dim"] = getattr(config, "head_dim", None) or config.hidden_size // heads
        fields |= {"num_attention_heads": heads // config.num_key_value_heads * groups, "num_key_value_heads": groups}
    if neurons != config.intermediate_size:
        fields["intermediate_size"] = neurons
    for kind in sorted({kind for layer in layers for kind in layer.get("output_bias", ())}):
        if not isinstance(vars(config).get(BIAS_FIELDS[kind]), bool):
            return None
        fields[BIAS_FIELDS[kind]] = True
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
        raise UnsupportedModelError(f"{config.model_type}: cannot be told these sizes: {error}") from error
    for field in fields.keys() & _BIASED.keys():
        child, linears = _BIASED[field]
        for block in decoder.blocks:
            module = block.get_submodule(child)
            for linear in [linear for name, linear in module.named_children() if name in linears]:
                _give_bias(linear)
    check_structure(decoder.model)


def _give_bias(linear: nn.Module) -> None:
    if getattr(linear, "bias", None) is None:
        weight = linear.get_parameter("weight")
        dtype = weight.dtype if weight.is_floating_point() else None
        linear.bias = nn.Parameter(torch.zeros(weight.shape[0], device=weight.device, dtype=dtype))
