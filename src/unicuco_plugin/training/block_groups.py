"""Whole blocks as groups of attentions and MLPs, for a search to start with."""

import torch

from unicuco_plugin.search.groups import Groups
from unicuco_plugin.spaces.sublayer import SublayerSpace
from unicuco_plugin.spaces.units import name_block

__all__ = ["group_blocks"]

# Of two blocks one goes, and that is two strategies: nothing to search.
_FEWEST = 3


def group_blocks(space: SublayerSpace) -> Groups | None:
    """Blocks in place of their attentions and MLPs; None where blocks are too few."""
    names = tuple(dict.fromkeys(map(name_block, space.units)))
    params = torch.zeros(len(names), dtype=torch.float64).index_add(0, space.blocks, space.params)
    if len(names) < _FEWEST:
        return None
    needed = tuple(tuple(space.blocks[list(group)].unique().tolist()) for group in space.needed)
    inner = SublayerSpace(names, tuple(int(n) for n in params.tolist()), needed)
    return Groups(inner, space.blocks, "whole blocks")
