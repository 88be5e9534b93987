"""Attentions and MLPs that go whole."""

from unicuco_plugin.models.blocks.needed import needed_blocks
from unicuco_plugin.models.blocks.sizes import measure_sizes
from unicuco_plugin.models.blocks.sublayers import check_silence, sublayer_params
from unicuco_plugin.plugins.manager import make_space
from unicuco_plugin.spaces.sublayer import SublayerSpace
from unicuco_plugin.training.block_groups import group_blocks
from unicuco_plugin.training.subject import Ask, Subject, size_table

__all__ = ["half_subject"]


def half_subject(ask: Ask) -> Subject:
    """Units are attentions and MLPs, pair after pair.

    Raises:
        UnsupportedModelError: If a half cannot be silenced, or lies in no module of its own.
    """
    decoder = ask.decoder
    sizes, params = measure_sizes(decoder), sublayer_params(decoder)
    check_silence(decoder)
    # Halves are listed pair after pair; a block leaves when both go.
    needed = tuple(tuple(2 * block + half for block in group for half in range(2)) for group in needed_blocks(decoder))
    space = make_space(ask.name, tuple(params), tuple(params.values()), needed=needed)
    # What only half a block lacks is zeroed and stays in the files.
    table = size_table(sizes, tuple(params.values()), (0,) * len(params))
    groups = group_blocks(space) if isinstance(space, SublayerSpace) else None  # a plugin may have its own
    pairs = zip(sizes.block_params, sizes.block_bytes, strict=True)
    table = table.model_copy(update={"blocks": dict(zip(decoder.block_names, pairs, strict=True))})
    return Subject(space, table, groups=groups)
