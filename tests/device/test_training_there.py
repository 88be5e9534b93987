"""Training in every space, on the emulated device and on the CPU: one archive."""

import json

import pytest
import torch
from other_device import DEVICE
from tiny import tiny_model, tiny_tokenizer

from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.record import LevelSettings
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.profile import RECORD
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.training import Units, train_profile

pytestmark = pytest.mark.accelerator

TINY = Settings(
    tokens=32, seq_length=16, rank_tokens=32, rank_seq_length=16, initial=12, epochs=1, steps=3, pool=16, picks=2,
    starts=1, rerank=1, target="log",
)  # fmt: skip


def facts_of(folder):
    """What a profile says that its device does not decide."""
    record = json.loads((folder / RECORD).read_text(encoding="utf8"))
    return {name: value for name, value in record.items() if name not in {"provenance", "digest", "name"}}


@pytest.fixture
def dense(tmp_path):
    def save(family, blocks=4):
        folder = tmp_path / family
        tiny_model(family, blocks=blocks).save_pretrained(folder)
        tiny_tokenizer(folder)
        return folder

    return save


def train_twice(dense, tmp_path, **options):
    """Where both ran, and what they found."""
    for device in ("cpu", str(DEVICE)):
        train_profile(dense, tmp_path / device, settings=TINY, device=device, **options)
    return [facts_of(tmp_path / device) for device in ("cpu", str(DEVICE))]


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3_moe", "bamba"])
def test_depth(dense, tmp_path, family):
    there, here = train_twice(dense(family), tmp_path)
    assert there == here


@pytest.mark.parametrize("family", ["llama"])
def test_sublayer(dense, tmp_path, family):
    there, here = train_twice(dense(family, 3), tmp_path, space="sublayer")
    assert there == here


def test_structured(dense, tmp_path):
    there, here = train_twice(dense("llama", 2), tmp_path, space="structured", units=Units(round_to=16))
    assert there == here


@pytest.mark.parametrize("family", ["llama"])
def test_sparsity(dense, tmp_path, windows, family):
    model = dense(family, 2)
    settings = LevelSettings(sparsities=(0.3, 0.5, 0.8), batch_windows=4)
    build_levels(find_decoder(tiny_model(family, blocks=2)), windows, tmp_path / "db", name="tiny", settings=settings)
    there, here = train_twice(model, tmp_path, space="sparsity", units=Units(levels=tmp_path / "db"))
    assert there == here
