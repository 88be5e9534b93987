"""A tiny dense model, windows, and what enters its linears."""

import pytest
import torch
from tiny import VOCABULARY, linear_inputs, tiny_model

from unicuco_plugin.models.blocks.decoder import find_decoder

WINDOWS = torch.randint(3, VOCABULARY, (6, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def windows():
    return WINDOWS


@pytest.fixture
def decoder():
    return find_decoder(tiny_model("llama", blocks=4))


@pytest.fixture
def inputs(decoder):
    """What enters every linear in a plain forward of the whole model, positions x features."""
    return linear_inputs(decoder, WINDOWS)
