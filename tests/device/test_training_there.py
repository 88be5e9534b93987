"""What training asks of a model in every space: the same bits on the emulated device, on the CPU and from its files."""

import json

import pytest
import torch
from other_device import DEVICE
from tiny import tiny_model, tiny_tokenizer
from tiny_settings import tiny_settings

from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.record import LevelSettings
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.objectives.objective import ObjectiveRequest
from unicuco_plugin.plugins.manager import make_objective
from unicuco_plugin.profile import RECORD
from unicuco_plugin.training import ModelSource, UnitOptions, train_profile
from unicuco_plugin.training.correcting import find_corrections
from unicuco_plugin.training.subjects.find import find_subject

# The last is the CPU with blocks that wait in the model's own files.
PLACES = ("cpu", str(DEVICE), "files")
TINY = tiny_settings(tokens=32, initial=4, steps=1, pool=4, picks=1, rerank=1, target="log")


def measured(space, units, model, windows, folder, *, few=4, compensation=None):
    """Everything that a run over a space learns of a model: payload, notes, first strategies, divergences."""
    decoder = find_decoder(model)
    subject = find_subject(space, decoder, "0" * 16 + "." + "0" * 16, units)
    payload = None if subject.prepare is None else subject.prepare(windows)
    with Journal.open(folder / "journal", {}, resume=False) as journal:
        start = subject.start(journal, windows, payload)
        notes = journal.notes()
    first = subject.space.first(few, torch.Generator().manual_seed(0)) if start.first is None else start.first[:few]
    corrections = find_corrections(compensation, decoder, windows, space=space)
    request = ObjectiveRequest(
        decoder, subject.space, windows, levels=subject.levels, payload=payload, corrections=corrections
    )
    found = make_objective("divergence", request).evaluate(first)
    tensors = {} if payload is None else {name: value.tolist() for name, value in payload.tensors.items()}
    return tensors, notes, first.tolist(), [entry.per_window for entry in found]


def both(space, family, windows, tmp_path, *, blocks=2, units=None, compensation=None):
    for place in PLACES:
        (tmp_path / place).mkdir()
        if place == "files":
            tiny_model(family, blocks=blocks).save_pretrained(tmp_path / "dense")
            model = load_model(tmp_path / "dense", offload="disk")
        else:
            model = tiny_model(family, blocks=blocks).to(place)
        folder = tmp_path / place
        yield measured(space, units or UnitOptions(), model, windows, folder, compensation=compensation)


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3_moe", "bamba"])
def test_depth(windows, tmp_path, family):
    here, there, streamed = both("depth", family, windows, tmp_path, blocks=4)
    assert here == there == streamed


@pytest.mark.parametrize(("family", "name"), [("llama", "ridge"), ("starcoder2", "linear"), ("qwen3_moe", "scale")])
def test_depth_with_a_compensation(windows, tmp_path, family, name):
    here, there, streamed = both("depth", family, windows, tmp_path, blocks=4, compensation=name)
    assert here == there == streamed


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_sublayer(windows, tmp_path, family):
    here, there, streamed = both("sublayer", family, windows, tmp_path, blocks=3)
    assert here == there == streamed


def test_sublayer_with_a_compensation(windows, tmp_path):
    here, there, streamed = both("sublayer", "llama", windows, tmp_path, blocks=2, compensation="ridge")
    assert here == there == streamed


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("ranking", ["flap", "taylor"])
def test_structured(windows, tmp_path, family, ranking):
    here, there, streamed = both(
        "structured", family, windows, tmp_path, units=UnitOptions(round_to=16, ranking=ranking)
    )
    assert here == there == streamed


def test_structured_with_a_compensation(windows, tmp_path):
    units = UnitOptions(round_to=16)
    here, there, streamed = both("structured", "llama", windows, tmp_path, units=units, compensation="ridge")
    assert here == there == streamed


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_sparsity(windows, tmp_path, family, monkeypatch):
    monkeypatch.setattr("unicuco_plugin.levels.store.Levels.check_model", lambda *_: None)
    decoder = find_decoder(tiny_model(family, blocks=2))
    build_levels(decoder, windows, tmp_path / "levels", name="tiny", settings=LevelSettings(sparsities=(0.3, 0.7)))
    here, there, streamed = both(
        "sparsity", family, windows[:1], tmp_path, units=UnitOptions(levels=tmp_path / "levels")
    )
    assert here == there == streamed


def test_a_whole_run_and_text_that_the_model_writes(tmp_path):
    tiny_model("llama", blocks=3).save_pretrained(tmp_path / "dense")
    tiny_tokenizer(tmp_path / "dense")
    found = []
    for place in PLACES:
        source = {"offload": "disk"} if place == "files" else {"device": place}
        train_profile(ModelSource(tmp_path / "dense", **source), tmp_path / place, settings=TINY)
        record = json.loads((tmp_path / place / RECORD).read_text(encoding="utf8"))
        assert record.pop("provenance")["device"] == torch.device(source.get("device", "cpu")).type
        found.append({name: value for name, value in record.items() if name not in {"digest", "name"}})
    assert found[0] == found[1] == found[2]


def test_a_level_database_built_from_a_model_in_its_files(windows, tmp_path):
    tiny_model("llama", blocks=2).save_pretrained(tmp_path / "dense")
    for offload in ("none", "disk"):
        decoder = find_decoder(load_model(tmp_path / "dense", offload=offload))
        build_levels(decoder, windows, tmp_path / offload, name="m", settings=LevelSettings(sparsities=(0.3, 0.7)))
    here, streamed = (
        {path.name: path.read_bytes() for path in (tmp_path / offload).rglob("*.safetensors")}
        for offload in ("none", "disk")
    )
    assert len(here) == 14
    assert here == streamed
