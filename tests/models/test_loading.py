"""Loading, and what is refused before a weight is read."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_model, tiny_tokenizer

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.loading import find_model, load, load_config, load_model, load_tokenizer


@pytest.fixture
def folder(tmp_path):
    tiny_model("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    tiny_tokenizer(tmp_path)
    return tmp_path


def _edit(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("auto", torch.bfloat16), ("float32", torch.float32), (torch.float16, torch.float16)],
    ids=str,
)
def test_a_folder_loads_in_evaluation_mode_and_the_dtype_asked_for(folder, dtype, expected):
    model = load_model(str(folder), dtype=dtype)
    assert not model.training
    assert model.dtype == expected
    assert model.device.type == "cpu"


def test_a_folder_is_read_without_a_network(folder, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    load_model(folder)
    load_tokenizer(folder)


def test_the_tokenizer_loads_with_its_chat_template(folder):
    tokenizer = load_tokenizer(folder)
    assert tokenizer("w0 w3")["input_ids"] == [4, 7]
    assert tokenizer.chat_template


@pytest.mark.parametrize("load", [load_config, load_model, load_tokenizer])
@pytest.mark.parametrize("name", ["/no/such/model", "./missing", "a/b/c"])
def test_missing_folders_are_refused_without_asking_the_hub(load, name):
    with pytest.raises(UnsupportedModelError) as caught:
        load(name)
    assert (
        str(caught.value)
        == f"{name}: no such model folder; give one that exists, or a name on the hub such as ORG/NAME"
    )


def test_a_folder_without_a_model_and_a_file_are_refused(tmp_path):
    with pytest.raises(
        UnsupportedModelError, match=r": the folder has no config\.json, so it is not a model; give the folder that "
    ):
        load_config(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(
        UnsupportedModelError,
        match=r": the folder holds a LoRA adapter, not a model; merge it first: peft's AutoPeftModelForCausalLM\.",
    ):
        load_config(tmp_path)
    (tmp_path / "model.bin").touch()
    with pytest.raises(
        UnsupportedModelError, match=r"model\.bin: expected a model folder, got a file; give the folder that holds it$"
    ):
        load_config(tmp_path / "model.bin")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            "the model is already quantised; prune the full-precision model instead",
        ),
        (
            {"model_type": "t5", "is_encoder_decoder": True},
            "encoder-decoder models are not supported, only decoder-only ones",
        ),
    ],
    ids=["quantised", "encoder-decoder"],
)
def test_unsupported_models_are_refused_by_name_before_their_weights_are_read(folder, fields, reason):
    _edit(folder, **fields)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModelError) as caught:
        load_model(folder)
    assert str(caught.value) == f"{folder}: {reason}"


def test_a_broken_configuration_is_one_line(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(UnsupportedModelError, match=r": its configuration cannot be loaded: ") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_truncated_weights_are_one_line(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UnsupportedModelError, match=r": its weights cannot be loaded: ") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_missing_weights_are_refused_instead_of_made_up(folder):
    path = folder / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if ".5." not in name}
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=r": 9 tensors are missing from its weights: model\.layers\.5\."):
        load_model(folder)


@pytest.mark.parametrize("dtype", ["int8", "wide"])
def test_other_dtypes_are_refused(folder, dtype):
    with pytest.raises(UnsupportedModelError) as caught:
        load_model(folder, dtype=dtype)
    assert str(caught.value) == f"dtype must be auto or a floating-point dtype such as bfloat16, got {dtype!r}"


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation", "experts_implementation"])
@pytest.mark.parametrize("value", ["somebody/kernels", "somebody/kernels:attention", "flash|somebody/kernels"])
def test_a_configuration_that_names_compiled_code_on_the_hub_is_refused(field, value, tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {field: value}))
    for read in (load, load_model, load_config, find_model):
        with pytest.raises(
            UnsupportedModelError, match=r"asks for code of others, .* which is not run; remove the field"
        ):
            read(tmp_path / "m")


@pytest.mark.parametrize("name", ["generation_config.json", "model.safetensors", "notes"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: Path(path).symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_a_folder_that_would_be_read_without_end_is_refused_at_once(name, make, folder):
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    with pytest.raises(UnsupportedModelError, match=rf"{name}: must be a file or a folder, got a pipe, device"):
        load_config(folder)


def test_a_sparse_giant_among_the_texts_is_refused_at_once(folder):
    os.truncate(folder / "tokenizer.json", 2**40)
    with pytest.raises(UnsupportedModelError, match=r"tokenizer\.json: must have at most 268,435,456 bytes, got 1,"):
        load_tokenizer(folder)
