import json
import os
from pathlib import Path

import pytest
import torch
from tiny import tiny_model

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.files import facts
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.models.tensors import storage
from unicuco_plugin.models.tensors.storage import write_tensor

LONG_AGO = (1_000_000_000, 1_000_000_000)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "cache_folder", lambda: tmp_path / "cache")
    tiny_model("llama").save_pretrained(tmp_path / "dense")
    os.utime(tmp_path / "dense" / "model.safetensors", LONG_AGO)
    return tmp_path / "dense"


@pytest.fixture
def reads(monkeypatch):
    """Tensors that are read from their files, or looked at where they are kept."""
    found, read = [], storage.read_kept
    monkeypatch.setattr(storage, "read_kept", lambda owner, name: found.append(name) or read(owner, name))
    return found


def test_what_lies_in_files_that_have_not_changed_is_looked_at_once(folder, reads, monkeypatch):
    first = fingerprint(load_model(folder, offload="disk"))
    reads.clear()
    again = load_model(folder, offload="disk")
    assert fingerprint(again) == first
    # Twice what is in memory: once for being finite, once for the fingerprint.
    assert len(reads) == 2 * sum(1 for name, _ in again.named_parameters() if ".layers." not in name)
    assert fingerprint(tiny_model("llama")) == first


def test_each_dtype_is_looked_at_for_itself(folder, reads):
    first = load_model(folder, dtype="float16", offload="disk")
    assert fingerprint(first) == fingerprint(load_model(folder, dtype="float16"))
    assert fingerprint(load_model(folder, offload="disk")) == fingerprint(load_model(folder))


def test_a_file_that_has_changed_is_read_again(folder):
    first = fingerprint(load_model(folder, offload="disk"))
    tiny_model("llama", seed=1).save_pretrained(folder)
    os.utime(folder / "model.safetensors", LONG_AGO)
    assert fingerprint(load_model(folder, offload="disk")) == fingerprint(tiny_model("llama", seed=1)) != first


def test_a_weight_that_was_written_to_is_no_longer_the_file_s(folder):
    model = load_model(folder, offload="disk")
    first = fingerprint(model)
    linear = model.model.layers[0].mlp.down_proj
    write_tensor(linear, "weight", torch.zeros_like(linear.weight))
    changed = fingerprint(model)
    assert changed != first
    assert fingerprint(model) == changed
    assert fingerprint(load_model(folder, offload="disk")) == first


def test_a_weight_that_is_not_finite_is_never_taken_for_sound(folder):
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight[0, 0] = torch.nan
    model.save_pretrained(folder)
    os.utime(folder / "model.safetensors", LONG_AGO)
    for _ in range(2):
        with pytest.raises(UnsupportedModelError, match=r"1 of 1,536 numbers of model.layers.3.mlp.down_proj.weight"):
            load_model(folder, offload="disk")


def test_nothing_is_kept_of_what_loading_saved_again(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "_SETTLED", -1)
    tiny_model("qwen3_moe").save_pretrained(folder)
    fingerprint(load_model(folder, offload="disk"))
    stores = [json.loads(store.read_bytes()) for store in (tmp_path / "cache").rglob("*.json")]
    assert [store["file"][0] for store in stores] == [str(folder.resolve() / "model.safetensors")]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_fingerprint_is_the_same_in_any_number_of_threads(threads, monkeypatch):
    expected = fingerprint(tiny_model("llama"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert fingerprint(tiny_model("llama")) == expected


def test_nothing_is_kept_of_a_model_in_memory(folder, tmp_path):
    fingerprint(load_model(folder))
    assert not list(Path(tmp_path).rglob("facts/*.json"))
