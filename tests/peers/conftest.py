"""A tiny dense model, its level database, and windows."""

import pytest
import torch
from scheme_databases import build_schemes
from tiny import VOCABULARY, linear_inputs, tiny_model

from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.peers.peer import PeerRequest
from unicuco_plugin.schemes import DENSE_BITS

WINDOWS = torch.randint(3, VOCABULARY, (6, 16), generator=torch.Generator().manual_seed(0))
BLOCKS = 4


@pytest.fixture
def windows():
    return WINDOWS


@pytest.fixture
def decoder():
    return find_decoder(tiny_model("llama", blocks=BLOCKS))


@pytest.fixture(scope="session")
def levels(tmp_path_factory):
    """The database of that model; tests only read it."""
    dense = find_decoder(tiny_model("llama", blocks=BLOCKS))
    settings = LevelSettings(sparsities=(0.3, 0.5, 0.8), batch_windows=4)
    return build_levels(dense, WINDOWS, tmp_path_factory.mktemp("levels") / "db", name="tiny", settings=settings)


@pytest.fixture
def ask(decoder, levels):
    """Make a request about that model."""

    def make(sparsity, **fields):
        return PeerRequest(decoder, fields.pop("windows", WINDOWS), sparsity, levels=levels, **fields)

    return make


@pytest.fixture(scope="module")
def small():
    """Two blocks: eight units of bits, 65 536 strategies."""
    return find_decoder(tiny_model("llama", blocks=2))


@pytest.fixture(scope="session")
def schemes(tmp_path_factory):
    """The database of schemes of that model; tests only read it."""
    return build_schemes(tiny_model("llama", blocks=2), tmp_path_factory.mktemp("schemes") / "all")


@pytest.fixture
def ask_bits(small, schemes):
    """Make a request about that model, on two windows."""

    def make(bits, **fields):
        windows = fields.pop("windows", WINDOWS[:2])
        return PeerRequest(small, windows, 1.0 - bits / DENSE_BITS, levels=schemes, **fields)

    return make


@pytest.fixture
def inputs(decoder):
    """What enters every linear in a plain forward of the whole model, positions x features."""
    return linear_inputs(decoder, WINDOWS)


@pytest.fixture
def states(decoder):
    """The states before, between and after all blocks, before the final norm, of a plain forward."""
    found = []
    hooks = [decoder.blocks[0].register_forward_pre_hook(lambda _, args: found.append(args[0]))]
    hooks += [block.register_forward_hook(lambda _, __, out: found.append(out)) for block in decoder.blocks]
    with torch.no_grad():
        decoder.model(input_ids=WINDOWS, use_cache=False)
    for hook in hooks:
        hook.remove()
    return [state[0] if isinstance(state, tuple) else state for state in found]
