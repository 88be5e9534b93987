"""Fingerprints of models and configurations."""

import json

import pytest
import torch
from tiny import FAMILIES, tiny_model, unfuse_experts
from transformers import AutoConfig, LlamaConfig

from unicuco_plugin.errors import ModelMismatchError
from unicuco_plugin.models.blocks import fingerprint as module
from unicuco_plugin.models.blocks.fingerprint import Fingerprint, config_fingerprint, fingerprint
from unicuco_plugin.models.loading import load_model

# SmolLM2-135M-Instruct in the hub's spelling: older field names, and decoration that no class declares.
HUB = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pad_token_id": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
    "transformers_version": "4.42.3",
    "use_cache": True,
    "vocab_size": 49152,
}


def _read(folder, **fields):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(HUB | fields))
    return AutoConfig.from_pretrained(folder)


@pytest.mark.slow
def test_the_hubs_configuration_matches_the_one_read_from_gguf(tmp_path, smollm2):
    local = AutoConfig.from_pretrained(smollm2)
    assert config_fingerprint(_read(tmp_path)) == config_fingerprint(local)


def test_the_structure_hash_is_pinned(tmp_path):
    assert config_fingerprint(_read(tmp_path)) == "3fb2f9cd3b800702"


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": 585},
        {"num_hidden_layers": 29},
        {"rope_theta": 10000},
        {"rms_norm_eps": 1e-06},
        {"hidden_act": "gelu"},
        {"tie_word_embeddings": False},
        {"vocab_size": 49153},
    ],
    ids=str,
)
def test_structural_fields_change_the_structure(fields, tmp_path):
    assert config_fingerprint(_read(tmp_path, **fields)) != config_fingerprint(_read(tmp_path))


@pytest.mark.parametrize(
    "fields",
    [
        {"torch_dtype": "float32"},
        {"use_cache": False},
        {"eos_token_id": [2, 7]},
        {"transformers_version": "9"},
        {"attention_dropout": 0.1},
        {"_name_or_path": "elsewhere"},
        {"head_dim": 64},
        {"rms_norm_eps": 9.999999747378752e-06},
        {"nobody_knows": 3},
    ],
    ids=str,
)
def test_other_fields_do_not(fields, tmp_path):
    assert config_fingerprint(_read(tmp_path, **fields)) == config_fingerprint(_read(tmp_path))


def test_a_class_from_a_models_own_repository_counts_all_fields():
    class RemoteConfig(LlamaConfig):
        model_type = "remote"

    one, two = RemoteConfig(), RemoteConfig()
    one.width_of_nothing, two.width_of_nothing = 3, 4
    assert config_fingerprint(one) != config_fingerprint(two)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_model_matches_however_it_was_saved(family, tmp_path):
    # Weights that bfloat16 can hold: only then is the bfloat16 file the same model.
    model = tiny_model(family).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    model.to(torch.float32).save_pretrained(tmp_path / "many", max_shard_size="40KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    half, many = fingerprint(load_model(tmp_path / "half")), fingerprint(load_model(tmp_path / "many"))
    assert half == many == fingerprint(model)
    assert half.structure == config_fingerprint(AutoConfig.from_pretrained(tmp_path / "half"))


def test_one_changed_weight_changes_the_weights_alone():
    model = tiny_model("llama")
    before = fingerprint(model)
    with torch.no_grad():
        model.model.layers[3].mlp.up_proj.weight[1, 2] += 1.0
    after = fingerprint(model)
    assert (after.structure == before.structure, after.weights == before.weights) == (True, False)


def test_experts_that_the_toolkit_unfused_are_the_same_weights():
    model = tiny_model("qwen3_moe")
    before = fingerprint(model)
    unfuse_experts(model)
    assert fingerprint(model) == before


def test_chunks_do_not_show(monkeypatch):
    model = tiny_model("llama")
    before = fingerprint(model)
    monkeypatch.setattr("unicuco_plugin.models.blocks.fingerprint._CHUNK", 100)
    assert fingerprint(model) == before


def test_text_form_reads_back():
    mark = fingerprint(tiny_model("llama"))
    assert Fingerprint.parse(str(mark)) == mark


@pytest.mark.parametrize("text", ["", "abc", "0123456789abcdef", "0123456789abcdef.0123456789ABCDEF"])
def test_other_text_is_refused(text):
    with pytest.raises(ModelMismatchError, match=r"^a fingerprint is two groups of 16 hexadecimal digits, got "):
        Fingerprint.parse(text)


@pytest.mark.parametrize(("held", "most"), [(2**30, 8), (4 * 64, 4), (1, 1)])
def test_a_few_tensors_are_in_memory_at_a_time(held, most, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(module, "_HELD", held)
    waiting = []

    def read():
        for index in range(30):
            waiting.append(index)
            assert len(waiting) <= most + 1
            yield str(index), str(index), torch.zeros(16)

    for name, *_ in module._hash_all(read()):
        waiting.remove(int(name))
    assert waiting == []
