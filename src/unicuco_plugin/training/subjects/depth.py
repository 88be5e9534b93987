"""Blocks that go whole."""

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.needed import needed_blocks
from unicuco_plugin.models.blocks.sizes import measure_sizes
from unicuco_plugin.plugins.manager import make_space
from unicuco_plugin.training.subject import Ask, Subject, size_table

__all__ = ["block_subject"]


def block_subject(ask: Ask) -> Subject:
    """Units are the model's blocks.

    Raises:
        UnsupportedModelError: If there are fewer than two.
    """
    sizes = measure_sizes(ask.decoder)
    label = type(ask.decoder.model).__name__
    if len(sizes.block_params) < 2:
        raise UnsupportedModelError(f"{label}: a profile needs two or more blocks, got {len(sizes.block_params)}")
    space = make_space(ask.name, ask.decoder.block_names, sizes.block_params, needed=needed_blocks(ask.decoder))
    return Subject(space, size_table(sizes, sizes.block_params, sizes.block_bytes))
