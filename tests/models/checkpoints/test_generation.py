"""A generation configuration that Transformers loads and would not write."""

import json

import pytest
import torch
from tiny import tiny_model
from transformers import GenerationConfig

from unicuco_plugin.models.checkpoints.generation import shipped_generation
from unicuco_plugin.models.loading import load_model

SHIPPED = b'{"temperature": 0.6,\n "do_sample": false, "eos_token_id": 2}\n'


@pytest.fixture
def contradictory(tmp_path):
    tiny_model("llama", blocks=2).save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "generation_config.json").write_bytes(SHIPPED)
    return load_model(tmp_path / "dense")


def save(model, folder):
    with shipped_generation(model, folder) as note:
        model.save_pretrained(folder)
    return note, (folder / "generation_config.json").read_bytes()


def test_it_is_kept_byte_for_byte_and_that_is_said(contradictory, tmp_path):
    given = contradictory.generation_config
    note, written = save(contradictory, tmp_path / "out")
    assert written == SHIPPED
    assert note.startswith(
        "generation_config.json is kept as it was shipped; Transformers loads it and would not write"
    )
    assert "`temperature`" in note
    assert contradictory.generation_config is given


def test_it_is_put_back_when_the_save_fails(contradictory, tmp_path):
    given = contradictory.generation_config
    with pytest.raises(OSError, match="disk full"), shipped_generation(contradictory, tmp_path):
        raise OSError("disk full")
    assert contradictory.generation_config is given
    assert not (tmp_path / "generation_config.json").exists()


def test_without_a_file_it_is_written_from_memory(tmp_path):
    model = tiny_model("llama", blocks=2)
    model.generation_config = GenerationConfig(do_sample=False, temperature=0.6, eos_token_id=2)
    _, written = save(model, tmp_path)
    assert json.loads(written)["temperature"] == 0.6


def test_one_that_agrees_with_itself_is_left_to_transformers(tmp_path):
    model = tiny_model("llama", blocks=2)
    note, written = save(model, tmp_path)
    assert note == ""
    assert json.loads(written)["eos_token_id"] == 2


@torch.no_grad()
def test_the_model_still_writes_text_afterwards(contradictory, tmp_path):
    save(contradictory, tmp_path / "out")
    again = load_model(tmp_path / "out")
    assert again.generation_config.temperature == 0.6
