"""A checkpoint on disk compared with the model in memory."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, tiny_model
from transformers import GPT2Config, GPT2LMHeadModel

from unicuco_plugin.errors import ExportError
from unicuco_plugin.models.checkpoints.checkpoint import (
    check_checkpoint,
    read_shapes,
    read_tensors,
    write_config_fields,
)


@pytest.fixture
def saved(tmp_path):
    model = tiny_model("llama", blocks=2)
    model.save_pretrained(tmp_path)
    return tmp_path, model


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_checkpoint_passes(family, tmp_path):
    model = tiny_model(family, blocks=2)
    model.save_pretrained(tmp_path)
    check_checkpoint(tmp_path, model)


def test_a_checkpoint_in_many_files_passes(tmp_path):
    model = tiny_model("llama", blocks=2)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    check_checkpoint(tmp_path, model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"),
            r"layers\.1\.mlp\.up_proj\.weight is missing",
        ),
        (lambda tensors: tensors.update(extra=torch.ones(1)), "extra is unexpected"),
        (lambda tensors: tensors.update({"model.norm.weight": torch.ones(7)}), r"has shape \(7,\), expected \(32,\)"),
    ],
)
def test_a_wrong_tensor_is_named(saved, change, message):
    folder, model = saved
    rewrite(folder, change)
    with pytest.raises(ExportError, match=message):
        check_checkpoint(folder, model)


def test_what_the_class_passes_over_is_not_unexpected(saved):
    folder, model = saved
    rewrite(folder, lambda tensors: tensors.update({"mtp.layers.0.weight": torch.ones(1)}))
    model._keys_to_ignore_on_load_unexpected = [r"^mtp.*"]
    check_checkpoint(folder, model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.float8_e4m3fn, torch.bool], ids=str)
def test_tensors_are_told_without_being_read(dtype, tmp_path):
    save_file({"a": torch.zeros(2, 3).to(dtype)}, tmp_path / "model.safetensors")
    [(name, tensor)] = read_tensors(tmp_path).items()
    assert (name, tensor.shape, tensor.dtype, tensor.device.type) == ("a", (2, 3), dtype, "meta")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_hidden_layers", 6, r"config\.json says 6 blocks, the model has 2"),
        ("rms_norm_eps", 0.5, "builds another model than the one in memory: rms_norm_eps differs"),
    ],
)
def test_a_wrong_configuration_is_named(saved, field, value, message):
    folder, model = saved
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(ExportError, match=message):
        check_checkpoint(folder, model)


def test_a_truncated_file_is_refused(saved):
    folder, model = saved
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ExportError, match=r"model\.safetensors: expected \d+ bytes, got \d+"):
        check_checkpoint(folder, model)


@pytest.mark.parametrize("content", [b"", b"\x03\0\0\0\0\0\0\0abc"])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ExportError, match="not a readable safetensors file"):
        read_shapes(tmp_path)


def test_a_folder_without_tensors_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"no \*\.safetensors"):
        read_shapes(tmp_path)


def test_a_field_is_written_under_the_familys_own_spelling(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=32, n_positions=16))
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_layer": 5}))
    write_config_fields(tmp_path, model, ["num_hidden_layers"])
    written = json.loads(path.read_text())
    assert written["n_layer"] == 2
    assert "num_hidden_layers" not in written


def test_a_configuration_that_cannot_be_read_is_an_error_of_ours(saved):
    folder, model = saved
    (folder / "config.json").write_text("{")
    with pytest.raises(ExportError, match="the configuration could not be corrected"):
        write_config_fields(folder, model, ["num_hidden_layers"])
