"""The configuration of a model with fewer blocks: every field that counts or lists them."""

import copy
import re
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig

from unicuco_plugin.errors import StrategyError
from unicuco_plugin.models.families.family import Family
from unicuco_plugin.models.families.known import family_of

__all__ = ["block_overrides", "shrink_config", "shrink_fields"]


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
    family = family_of(text)
    fields: dict[str, Any] = {}
    position = {old: new for new, old in enumerate(kept)}
    for field, value in vars(text).items():
        if field in family.indices and isinstance(value, list | tuple):
            fields[field] = [position[old] for old in value if old in position]
        elif _is_per_block(family, field, value, count):
            fields[field] = [copy.deepcopy(value[old]) for old in kept]
        elif field in family.counts and isinstance(value, int) and value < count:
            fields[field] = sum(old < value for old in kept)
    for rule in family.rules:
        fields |= rule(text, kept)
    own = block_overrides(text)
    if own:  # Gemma 4: head sizes by the kind of attention
        fields["per_layer_config"] = {new: own[old] for new, old in enumerate(kept) if old in own}
    fields["num_hidden_layers"] = len(kept)
    return fields


def block_overrides(config: PreTrainedConfig) -> dict[int, dict[str, Any]]:
    """What Transformers' ``per_layer_config`` says of single blocks, by index; empty where there is none."""
    if not getattr(config, "is_heterogeneous", False):
        return {}
    return {int(index): dict(fields) for index, fields in config.to_dict()["per_layer_config"].items()}


def _is_per_block(family: Family, field: str, value: object, count: int) -> bool:
    if not isinstance(value, list | tuple) or field.startswith("_"):
        return False
    if field in family.longer:
        return len(value) >= count
    return len(value) == count and (field in family.per_block or re.search(r"layer|block", field) is not None)
