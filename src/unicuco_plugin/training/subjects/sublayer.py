"""Attentions and MLPs that go whole."""

from unicuco_plugin.costs.measure import half_costs
from unicuco_plugin.models.blocks.needed import needed_blocks
from unicuco_plugin.models.blocks.sublayers import check_silence
from unicuco_plugin.plugins.manager import make_space
from unicuco_plugin.spaces.sublayer import SublayerSpace
from unicuco_plugin.training.block_groups import group_blocks
from unicuco_plugin.training.subject import Ask, Subject

__all__ = ["half_subject"]


def half_subject(ask: Ask) -> Subject:
    """Units are attentions and MLPs, pair after pair.

    Raises:
        UnsupportedModelError: If a half cannot be silenced, or lies in no module of its own.
    """
    decoder = ask.decoder
    costs = half_costs(decoder)
    check_silence(decoder)
    # Halves are listed pair after pair; a block leaves when both go.
    needed = tuple(tuple(2 * block + half for block in group for half in range(2)) for group in needed_blocks(decoder))
    space = make_space(ask.name, costs.units, costs.table.unit_params, needed=needed)
    groups = group_blocks(space) if isinstance(space, SublayerSpace) else None  # a plugin may have its own
    return Subject(space, costs, groups=groups)
