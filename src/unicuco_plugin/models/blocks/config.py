"""The configuration of a model with fewer blocks: every field that counts or lists them."""

import copy
import math
import re
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig

from unicuco_plugin.errors import StrategyError

__all__ = ["block_overrides", "shrink_config", "shrink_fields"]

# Lists of block indices: entries are remapped, those of dropped blocks vanish.
_INDEX_LISTS = frozenset({
    "attn_layer_indices", "cross_attention_layers", "full_attn_idxs", "global_attn_idxs", "hybrid_layer_ids",
    "mlp_only_layers", "moe_layers", "ple_layer_ids",
})  # fmt: skip
# Numbers k that mean "the first k blocks".
_COUNTS = ("max_window_layers", "first_k_dense_replace", "num_dense_layers")
# Lists with one entry a block whose name does not say so.
_PER_BLOCK = frozenset({
    "activation_sparsity_pattern", "ffn_multipliers", "intermediate_size", "moe_layer_freq", "num_attention_heads",
    "num_key_value_heads", "num_query_heads", "num_kv_heads", "rope_theta", "sliding_window",
})  # fmt: skip
# Written for every block by Transformers, sometimes for more blocks than there are.
_MAY_BE_LONGER = frozenset({"no_rope_layers", "layer_types"})


def shrink_config(config: PreTrainedConfig, kept: Sequence[int]) -> PreTrainedConfig:
    """Copy a configuration for the model that has only some of its blocks.

    Args:
        config: The configuration of the whole model; the text part inside a wrapper is the one that shrinks.
        kept: Indices of the blocks that stay, ascending, in [0, blocks).

    Returns:
        A deep copy whose per-block lists are subset and written out, index lists remapped and counts recounted.

    Raises:
        StrategyError: If ``kept`` is empty, not ascending, or out of range.
    """
    new = copy.deepcopy(config)
    text = new.get_text_config(decoder=True)
    for field, value in shrink_fields(text, kept).items():
        setattr(text, field, value)
    return new


def shrink_fields(text: PreTrainedConfig, kept: Sequence[int]) -> dict[str, Any]:
    """The fields of a text configuration that change when only some blocks stay, with their new values.

    Args:
        text: The text configuration; it is not changed.
        kept: Indices of the blocks that stay, ascending, in [0, blocks).

    Raises:
        StrategyError: If ``kept`` is empty, not ascending, or out of range.
    """
    count = text.num_hidden_layers
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= count:
        raise StrategyError(f"kept blocks must be ascending indices in [0, {count}), got {list(kept)}")
    fields: dict[str, Any] = {}
    position = {old: new for new, old in enumerate(kept)}
    for field, value in vars(text).items():
        if field in _INDEX_LISTS and isinstance(value, list | tuple):
            fields[field] = [position[old] for old in value if old in position]
        elif _is_per_block(field, value, count):
            fields[field] = [copy.deepcopy(value[old]) for old in kept]
        elif field in _COUNTS and isinstance(value, int) and value < count:
            fields[field] = sum(old < value for old in kept)
    fields |= _write_out_sparse_step(text, kept) | _recount_sparse_range(text, kept)
    own = block_overrides(text)
    if own:  # Gemma 4: head sizes by the kind of attention
        fields["per_layer_config"] = {new: own[old] for new, old in enumerate(kept) if old in own}
    depth = vars(text).get("scale_depth")
    if isinstance(depth, int | float):  # MiniCPM: blocks add scale_depth / sqrt(blocks) of what they compute
        fields["scale_depth"] = depth * math.sqrt(len(kept) / count)
    if vars(text).get("num_nextn_predict_layers"):
        # A draft head that lies behind the last block under its number, which Transformers does not load nor save.
        fields["num_nextn_predict_layers"] = 0
    fields["num_hidden_layers"] = len(kept)
    return fields


def block_overrides(config: PreTrainedConfig) -> dict[int, dict[str, Any]]:
    """What Transformers' ``per_layer_config`` says of single blocks, by index; empty where there is none."""
    if not getattr(config, "is_heterogeneous", False):
        return {}
    return {int(index): dict(fields) for index, fields in config.to_dict()["per_layer_config"].items()}


def _is_per_block(field: str, value: object, count: int) -> bool:
    if not isinstance(value, list | tuple) or field.startswith("_"):
        return False
    if field in _MAY_BE_LONGER:
        return len(value) >= count
    return len(value) == count and (field in _PER_BLOCK or re.search(r"layer|block", field) is not None)


def _write_out_sparse_step(text: PreTrainedConfig, kept: Sequence[int]) -> dict[str, Any]:
    """Say by index which blocks are dense: "every n-th block is sparse" no longer holds once blocks are gone."""
    step = vars(text).get("decoder_sparse_step")
    if not isinstance(step, int) or step <= 1 or "mlp_only_layers" not in vars(text):
        return {}
    dense = set(text.mlp_only_layers or ()) | {old for old in range(text.num_hidden_layers) if (old + 1) % step}
    return {"decoder_sparse_step": 1, "mlp_only_layers": [new for new, old in enumerate(kept) if old in dense]}


def _recount_sparse_range(text: PreTrainedConfig, kept: Sequence[int]) -> dict[str, Any]:
    """Say from which block to which all are sparse (ERNIE), where those that stay lie in one piece."""
    given = [vars(text).get(f"moe_layer_{name}") for name in ("start_index", "end_index", "interval")]
    if not all(isinstance(value, int) for value in given):
        return {}
    first, last, step = given
    sparse = [new for new, old in enumerate(kept) if (old + 1) % step == 0 and first <= old <= last]
    start, end = (sparse[0], sparse[-1]) if sparse else (len(kept), len(kept) - 1)
    if len(sparse) != end - start + 1:
        return {}  # the structure check says that the configuration cannot tell
    return {"moe_layer_start_index": start, "moe_layer_end_index": end, "moe_layer_interval": 1}
