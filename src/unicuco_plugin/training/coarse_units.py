"""Larger units than a space's own, for a search to begin with."""

import torch

from unicuco_plugin.errors import StrategyError
from unicuco_plugin.search.coarse import Coarse
from unicuco_plugin.spaces.sublayer import SublayerSpace
from unicuco_plugin.spaces.units import name_block

__all__ = ["whole_blocks"]


def whole_blocks(space: SublayerSpace) -> Coarse | None:
    """Blocks in place of their attentions and MLPs; None where these are too few or have too many sizes."""
    names = tuple(dict.fromkeys(map(name_block, space.units)))
    params = torch.zeros(len(names), dtype=torch.float64).index_add(0, space.blocks, space.params)
    if len(names) < 2:
        return None
    try:
        inner = SublayerSpace(names, tuple(int(n) for n in params.tolist()))
    except StrategyError:
        return None
    return Coarse(inner, space.blocks, "whole blocks")
