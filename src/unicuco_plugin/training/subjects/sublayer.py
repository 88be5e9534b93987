"""Attentions and MLPs that go whole."""

from unicuco_plugin.costs.measure import half_costs, uneven_costs
from unicuco_plugin.models.blocks.needed import needed_blocks
from unicuco_plugin.models.blocks.sublayers import check_silence
from unicuco_plugin.models.parts.deci import check_deci_family
from unicuco_plugin.plugins.manager import make_space
from unicuco_plugin.spaces.sublayer import SublayerSpace
from unicuco_plugin.training.block_groups import group_blocks
from unicuco_plugin.training.subject import Ask, Subject

__all__ = ["half_subject"]


def half_subject(ask: Ask) -> Subject:
    """Units are attentions and MLPs, pair after pair.

    Raises:
        UnsupportedModelError: If a half cannot be silenced, or lies in no module of its own, or halves are to leave by
            themselves and the model does not compute what Llama does.
    """
    decoder, form = ask.decoder, ask.units.form
    if form is not None:
        check_deci_family(decoder)
    costs = half_costs(decoder) if form is None else uneven_costs(decoder)
    check_silence(decoder)
    # Halves are listed pair after pair; a block leaves when both go.
    needed = tuple(tuple(2 * block + half for block in group for half in range(2)) for group in needed_blocks(decoder))
    if form is not None:  # the first attention stays, and with it all groups that it is in
        needed = ((0,), *(group for group in needed if 0 not in group))
    space = make_space(ask.name, costs.units, costs.table.unit_params, needed=needed, physical=costs.physical)
    if not isinstance(space, SublayerSpace):  # a plugin may have its own
        return Subject(space, costs)
    return Subject(space, costs, {} if form is None else {"format": form}, groups=group_blocks(space))
