"""Tiny checkpoints on disk, strategies for them, and a toolkit session of its own for every test."""

import json
from pathlib import Path

import pytest
import torch
from accelerator import MACHINES, run_on
from depth_strategies import whole_block_strategy
from llmcompressor.core import reset_session
from tiny import tiny_model, tiny_tokenizer

from unicuco_plugin.modifiers.registration import register
from unicuco_plugin.strategy import Strategy

machine = pytest.fixture(autouse=True, scope="module", params=MACHINES)(run_on)


@pytest.fixture(autouse=True)
def own_session():
    register()
    reset_session()
    yield
    reset_session()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Save a tiny model of a family with a tokenizer, once a session; return its folder."""
    folder = tmp_path_factory.mktemp("models")

    def build(family: str, dtype: torch.dtype = torch.float32) -> Path:
        path = folder / f"{family}-{dtype}"
        if not path.exists():
            tiny_model(family).to(dtype).save_pretrained(path)
            tiny_tokenizer(path)
        return path

    return build


@pytest.fixture
def depth_strategy():
    """A strategy that drops given blocks of a model."""
    return whole_block_strategy


@pytest.fixture
def strategy_file(tmp_path):
    def write(strategy: Strategy, name: str = "strategy.json") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(strategy.to_dict()), encoding="utf8")
        return path

    return write


@pytest.fixture(scope="session")
def token_ids():
    return torch.arange(3, 43)[None]


@pytest.fixture(scope="session")
def calibration():
    return torch.randint(4, 128, (8, 32), generator=torch.Generator().manual_seed(0))
