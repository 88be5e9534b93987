"""Databases of schemes of tiny models."""

from pathlib import Path

import torch
from tiny import VOCABULARY

from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.models.blocks.decoder import find_decoder

__all__ = ["WIDTHS", "build_schemes"]

# Of a row, because tiny models have 48 neurons, which no group divides.
WIDTHS = ("W8A16:channel", "W4A16:channel", "W3A16:channel")


def build_schemes(model, folder: Path, schemes=WIDTHS) -> SchemeLevels:
    """Quantise every linear of the blocks in every scheme, calibrated on a few random tokens."""
    windows = torch.randint(3, VOCABULARY, (4, 16), generator=torch.Generator().manual_seed(2))
    settings = LevelSettings(schemes=schemes, block_size=16)
    return build_levels(find_decoder(model), windows, folder, name="tiny", settings=settings)
