"""Blocks of which generation needs one: where a cache counts tokens in some alone, or a family asks for a kind."""

from collections.abc import Collection

from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import CacheLayerMixin

from unicuco_plugin.errors import StrategyError, UnsupportedModelError, clip
from unicuco_plugin.models.blocks.config import shrink_config
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.surgery import dropped
from unicuco_plugin.models.tensors.storage import kept_tensors

__all__ = ["check_needed", "needed_blocks"]


def needed_blocks(decoder: Decoder) -> tuple[tuple[int, ...], ...]:
    """Groups of blocks, of each of which at least one has to stay; empty where any one block will do.

    Transformers' cache reads its length from the first layer that keeps keys and values. Layers of linear attention,
    convolutions, state spaces and lone MLPs keep none: a hybrid that lost all its attention fails at its first cached
    token. Which layers keep what is asked of the cache itself. A model that never had such a layer (Mamba) counts in
    another way, and needs none. Beside that a family's configuration may ask for one of a kind (OLMo-Hybrid: of linear
    attention; Gemma 4: of full attention at the end), which is found by asking it.
    """
    groups = [_counting(decoder), _first(decoder)]
    kinds = getattr(decoder.config, "layer_types", None)
    if isinstance(kinds, list) and len(kinds) == len(decoder.blocks) and len(set(kinds)) > 1:
        for kind in dict.fromkeys(kinds):
            group = tuple(index for index, other in enumerate(kinds) if other == kind)
            if not set(group) & set(groups[0]) and _asks_for(decoder.config, group):
                groups.append(group)
        last = len(kinds) - 1
        if not any(set(group) <= {last} for group in groups if group) and not _allowed(decoder.config, (last,)):
            groups.append((last,))
    return tuple(group for group in groups if group)


def check_needed(decoder: Decoder, gone: Collection[int]) -> None:
    """Refuse that all blocks of a group go of which generation needs one.

    Args:
        decoder: The dense model, with or without weights.
        gone: Indices of the blocks that go whole.

    Raises:
        StrategyError: If they do; the message names them.
    """
    for group in needed_blocks(decoder):
        if set(group) <= set(gone):
            names = clip(", ".join(decoder.block_names[index] for index in group), 90)
            raise StrategyError(
                f"units must leave one of the {len(group)} blocks {names}: Transformers' "
                f"{'cache counts tokens in' if group == _counting(decoder) else 'configuration asks for one of'} these "
                "alone, and nothing loads or generates without; keep one"
            )


def _counting(decoder: Decoder) -> tuple[int, ...]:
    """Blocks in which the cache counts tokens; empty where all do, or none."""
    try:
        layers = DynamicCache(config=decoder.config).layers
    except (KeyError, TypeError, ValueError):  # a family that brings a cache of its own
        return ()
    count = len(decoder.blocks)
    found = tuple(index for index, layer in enumerate(layers) if isinstance(layer, CacheLayerMixin))
    return found if len(layers) == count and len(found) < count else ()


def _first(decoder: Decoder) -> tuple[int, ...]:
    """The first block, where it has other weights than all others and no configuration gives another one its place.

    ModernBERT's decoder has no norm in it; a dense first block before sparse ones (DeepSeek) may go.
    """
    with kept_tensors():
        names = [frozenset(name for name, _ in block.named_parameters()) for block in decoder.blocks]
    if len(names) < 3 or names[0] in names[1:]:
        return ()
    return () if _drops(decoder, 0) or not _drops(decoder, 1) else (0,)


def _drops(decoder: Decoder, index: int) -> bool:
    try:
        with dropped(decoder.model, [index]):
            return True
    except UnsupportedModelError:
        return False


def _asks_for(config: PreTrainedConfig, group: tuple[int, ...]) -> bool:
    """Whether a configuration may lose all but one of these blocks, and not the last."""
    return _allowed(config, group[1:]) and not _allowed(config, group)


def _allowed(config: PreTrainedConfig, gone: Collection[int]) -> bool:
    kept = [index for index in range(config.num_hidden_layers) if index not in gone]
    small = shrink_config(config, kept)
    try:
        read = type(config).from_dict(small.to_dict())
    except Exception:  # whatever a family or the hub's checks raise
        return False
    return bool(getattr(read, "layer_types", None) == getattr(small, "layer_types", None))
