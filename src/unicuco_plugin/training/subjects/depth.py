"""Blocks that go whole."""

from unicuco_plugin.costs.measure import block_costs
from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.needed import needed_blocks
from unicuco_plugin.plugins.manager import make_space
from unicuco_plugin.training.subject import Ask, Subject

__all__ = ["block_subject"]


def block_subject(ask: Ask) -> Subject:
    """Units are the model's blocks.

    Raises:
        UnsupportedModelError: If there are fewer than two.
    """
    costs = block_costs(ask.decoder)
    label = type(ask.decoder.model).__name__
    if len(costs.units) < 2:
        raise UnsupportedModelError(f"{label}: a profile needs two or more blocks, got {len(costs.units)}")
    needed = needed_blocks(ask.decoder)
    space = make_space(ask.name, costs.units, costs.table.unit_params, needed=needed, physical=costs.physical)
    return Subject(space, costs)
