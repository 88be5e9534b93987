"""Strategies of the space ``structured`` for given kept parts."""

from depth_strategies import whole_block_strategy

from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.strategy import Strategy

__all__ = ["structured_strategy"]


def structured_strategy(model, parts: KeptParts, **changes) -> Strategy:
    """The shares that kept parts remove of their modules."""
    found = find_parts(find_decoder(model))
    units = {name: 1 - len(kept) / found[name].count for name, kept in parts.kept.items()}
    return whole_block_strategy(model, **({"space": "structured", "units": units} | changes))
