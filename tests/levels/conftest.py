"""A tiny dense model and its level database."""

import pytest
import torch
from tiny import VOCABULARY, tiny_model

from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.models.blocks.decoder import find_decoder

WINDOWS = torch.randint(3, VOCABULARY, (6, 16), generator=torch.Generator().manual_seed(0))
LADDER = (0.3, 0.5, 0.8)


@pytest.fixture
def windows():
    return WINDOWS


@pytest.fixture(scope="session")
def settings():
    """Three levels, blocks of columns that do not divide the tiny widths of 32 and 48, two windows at a time."""
    return LevelSettings(sparsities=LADDER, block_size=20, batch_windows=4, inputs="dense")


@pytest.fixture
def decoder():
    return find_decoder(tiny_model("llama", blocks=2).to(torch.bfloat16))


@pytest.fixture(scope="session")
def levels(settings, tmp_path_factory):
    """The database of that model; tests only read it."""
    dense = find_decoder(tiny_model("llama", blocks=2).to(torch.bfloat16))
    return build_levels(dense, WINDOWS, tmp_path_factory.mktemp("levels") / "db", name="tiny", settings=settings)
