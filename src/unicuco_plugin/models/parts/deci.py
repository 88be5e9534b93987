"""Uneven blocks in the form that vLLM loads: ``DeciLMForCausalLM``, Llama's mathematics, halves absent, MLPs narrower.

Read in vLLM 0.32, ``model_executor/models/nemotron_nas.py``: query heads are as many in all blocks, so an attention
goes whole or stays; a bias is in all blocks or in none; the first block has no residual yet, so its attention stays
while its MLP does.
"""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import LlamaConfig, PreTrainedConfig

from unicuco_plugin.errors import StrategyError, UnsupportedModelError, quoted
from unicuco_plugin.models.blocks.as_configured import check_structure
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.surgery import drop_blocks, shrink_config
from unicuco_plugin.models.parts.configuration_deci import DeciLMConfig
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.modeling_deci import AUTO_MAP, DeciLMForCausalLM, leave_out
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.models.parts.shrink import NAMES, gone_blocks
from unicuco_plugin.models.tensors.storage import kept_tensors, settle

__all__ = ["check_deci", "check_deci_family", "close_deci", "deci_config"]

_OTHERWISE = "take --format compact or stock (in a recipe format: compact)"
# What Transformers writes that is no field of Llama's.
_OWN = frozenset({"architectures", "auto_map", "model_type", "transformers_version"})


def check_deci_family(decoder: Decoder) -> None:
    """Refuse a model whose mathematics vLLM's class does not have.

    Raises:
        UnsupportedModelError: With what differs.
    """
    config, label = decoder.config, type(decoder.model).__name__
    if not decoder.family.llama_like:
        raise UnsupportedModelError(
            f"{label}: the form deci is for models that compute what Llama does (Llama, Mistral, Qwen2); {_OTHERWISE}"
        )
    if getattr(config, "sliding_window", None) is not None or "sliding_attention" in (
        getattr(config, "layer_types", None) or ()
    ):
        raise UnsupportedModelError(
            f"{label}: has attentions with a sliding window, which vLLM's DeciLMForCausalLM does not have; {_OTHERWISE}"
        )
    if config.hidden_act != "silu":
        raise UnsupportedModelError(
            f"{label}: hidden_act must be silu for vLLM's DeciLMForCausalLM, got {quoted(config.hidden_act)}; "
            f"{_OTHERWISE}"
        )


def check_deci(decoder: Decoder, parts: KeptParts) -> None:
    """Refuse what the form has no room for.

    Raises:
        UnsupportedModelError: If the model does not compute what Llama does, a bias stands for what is removed of a
            module that has none, or an attention loses some of its head groups.
        StrategyError: If no attention stays, or the first block loses its attention and keeps its MLP.
    """
    check_deci_family(decoder)
    attention, mlp = NAMES["attention"], NAMES["mlp"]
    found = find_parts(decoder)
    homeless = [name for name in parts.biases if not _has_bias(decoder, parts, name, found[name].output)]
    if homeless:
        raise UnsupportedModelError(
            f"the form deci has no room for biases, got one for {min(homeless)}: pass --no-compensate (in a recipe "
            "compensate: false)"
        )
    halved = [name for name, kept in parts.kept.items() if name.endswith(f".{attention}")]
    halved = [name for name in halved if 0 < len(parts.kept[name]) < found[name].count]
    if halved:
        raise UnsupportedModelError(
            f"{halved[0]}: loses some of its head groups, and in the form deci attentions stay or go whole: train a "
            f"profile for it with --format deci, or {_OTHERWISE}"
        )
    gone = gone_blocks(decoder, parts)
    stay = [name for index, name in enumerate(decoder.block_names) if index not in gone]
    if all(f"{block}.{attention}" in parts.removed for block in stay):
        raise StrategyError(f"units must leave an attention, which the form deci takes the heads from; {_OTHERWISE}")
    first = stay[0]
    if f"{first}.{attention}" in parts.removed and f"{first}.{mlp}" not in parts.removed:
        raise StrategyError(
            f"units[{quoted(f'{first}.{attention}')}] must stay while the first block's MLP does: vLLM's "
            f"DeciLMForCausalLM has no residual before it; {_OTHERWISE}"
        )


@torch.no_grad()
def close_deci(decoder: Decoder, parts: KeptParts) -> frozenset[str]:
    """Take out what goes whole and let the configuration say so; MLPs are narrower already.

    Returns:
        The fields of the new configuration.

    Raises:
        UnsupportedModelError: If the configuration builds another model than this one.
    """
    model, gone, names = decoder.model, gone_blocks(decoder, parts), decoder.block_names
    kinds = {name: kind for kind, name in NAMES.items()}
    made = deci_config(decoder, parts)
    embedding = model.get_input_embeddings()
    for name in parts.removed:
        parent, _, child = name.rpartition(".")
        if names.index(parent) not in gone:
            block = model.get_submodule(parent)
            leave_out(block, kinds[child], decoder.config.hidden_size, names.index(parent))
            settle(block.get_submodule(child), embedding)
    drop_blocks(model, gone, check=False)
    model.config = made
    model.__class__ = DeciLMForCausalLM
    check_structure(model)
    return frozenset(model.config.to_dict())


def deci_config(decoder: Decoder, parts: KeptParts) -> DeciLMConfig:
    """The configuration of what is left of a model.

    Args:
        decoder: The dense model, which :func:`check_deci_family` lets pass; it is not changed.
        parts: What stays; a block that loses both halves goes.
    """
    gone = gone_blocks(decoder, parts)
    # Qwen2's queries, keys and values always have biases, and its configuration does not say so.
    with kept_tensors():
        biased = any(name.endswith("q_proj.bias") for name, _ in decoder.model.named_parameters())
    stay = [index for index in range(len(decoder.blocks)) if index not in gone]
    blocks = [_fields(decoder, decoder.block_names[index], parts) for index in stay]
    return _configuration(shrink_config(decoder.config, stay), blocks, biased)


def _has_bias(decoder: Decoder, parts: KeptParts, name: str, output: str) -> bool:
    """Whether a module has a bias that another one can be added to, and stays."""
    return bool(parts.kept.get(name, True)) and getattr(decoder.model.get_submodule(output), "bias", None) is not None


def _fields(decoder: Decoder, block: str, parts: KeptParts) -> dict[str, dict[str, Any]]:
    """One block's entry in ``block_configs``."""
    config = decoder.config
    attention, mlp = (f"{block}.{NAMES[kind]}" for kind in ("attention", "mlp"))
    heads: dict[str, Any] = {"no_op": True}
    if attention not in parts.removed:
        heads = {"no_op": False, "n_heads_in_group": config.num_attention_heads // config.num_key_value_heads}
    neurons: dict[str, Any] = {"no_op": True}
    if mlp not in parts.removed:
        neurons = {"no_op": False, "intermediate_size": len(parts.kept.get(mlp, range(config.intermediate_size)))}
    return {"attention": heads, "ffn": neurons}


def _configuration(dense: PreTrainedConfig, blocks: Iterable[dict[str, Any]], biased: bool) -> DeciLMConfig:
    known, given = LlamaConfig().to_dict().keys() - _OWN, dense.to_dict()
    made = DeciLMConfig(
        block_configs=list(blocks),
        qkv_bias=biased,
        auto_map=dict(AUTO_MAP),
        **{field: given[field] for field in known & given.keys()},
    )
    made._attn_implementation = dense._attn_implementation
    return made
