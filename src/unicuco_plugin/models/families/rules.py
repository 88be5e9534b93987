"""Fields of a configuration that mean something else once blocks are gone, and are computed anew.

A rule is given the configuration of the whole model and the indices of the blocks that stay, and returns the fields
that change, with their new values; none where the configuration has no such field.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from transformers import PreTrainedConfig

__all__ = ["Rule", "forget_drafts", "recount_sparse_range", "rescale_depth", "write_out_sparse_step"]

Rule: TypeAlias = Callable[[PreTrainedConfig, Sequence[int]], dict[str, Any]]


def write_out_sparse_step(text: PreTrainedConfig, kept: Sequence[int]) -> dict[str, Any]:
    """Say by index which blocks are dense: "every n-th block is sparse" no longer holds once blocks are gone."""
    step = vars(text).get("decoder_sparse_step")
    if not isinstance(step, int) or step <= 1 or "mlp_only_layers" not in vars(text):
        return {}
    dense = set(text.mlp_only_layers or ()) | {old for old in range(text.num_hidden_layers) if (old + 1) % step}
    return {"decoder_sparse_step": 1, "mlp_only_layers": [new for new, old in enumerate(kept) if old in dense]}


def recount_sparse_range(text: PreTrainedConfig, kept: Sequence[int]) -> dict[str, Any]:
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


def rescale_depth(text: PreTrainedConfig, kept: Sequence[int]) -> dict[str, Any]:
    """Let the blocks of MiniCPM go on adding what they did, ``scale_depth / sqrt(blocks)`` of what they compute."""
    depth = vars(text).get("scale_depth")
    if not isinstance(depth, int | float):
        return {}
    return {"scale_depth": depth * math.sqrt(len(kept) / text.num_hidden_layers)}


def forget_drafts(text: PreTrainedConfig, kept: Sequence[int]) -> dict[str, Any]:
    """Tell of no draft head: it lies behind the last block under its number, and Transformers does not load it."""
    return {"num_nextn_predict_layers": 0} if vars(text).get("num_nextn_predict_layers") else {}
