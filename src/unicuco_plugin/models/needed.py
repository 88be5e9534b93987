"""Blocks of which generation needs one: where a cache counts tokens in some blocks alone."""

from collections.abc import Collection

from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin

from unicuco_plugin.errors import StrategyError
from unicuco_plugin.models.decoder import Decoder

__all__ = ["check_needed", "needed_blocks"]


def needed_blocks(decoder: Decoder) -> tuple[int, ...]:
    """Indices of the blocks of which at least one has to stay; empty where any one will do.

    Transformers' cache reads its length from the first layer that keeps keys and values. Layers of linear attention,
    convolutions, state spaces and lone MLPs keep none: a hybrid that lost all its attention fails at its first cached
    token. Which layers keep what is asked of the cache itself. A model that never had such a layer (Mamba) counts in
    another way, and needs none.
    """
    try:
        layers = DynamicCache(config=decoder.config).layers
    except (KeyError, TypeError, ValueError):  # a family that brings a cache of its own
        return ()
    count = len(decoder.blocks)
    counting = tuple(index for index, layer in enumerate(layers) if isinstance(layer, CacheLayerMixin))
    return counting if len(layers) == count and len(counting) < count else ()


def check_needed(decoder: Decoder, gone: Collection[int]) -> None:
    """Refuse that all blocks go of which generation needs one.

    Args:
        decoder: The dense model, with or without weights.
        gone: Indices of the blocks that go whole.

    Raises:
        StrategyError: If they do; the message names them.
    """
    needed = needed_blocks(decoder)
    if needed and set(needed) <= set(gone):
        names = ", ".join(decoder.block_names[index] for index in needed[:3]) + (", …" if len(needed) > 3 else "")
        raise StrategyError(
            f"units must leave one of the {len(needed)} attention blocks, {names}: Transformers' cache counts tokens in "
            "these alone and cannot generate without them; keep one"
        )
