"""What is asked of a folder before it is called a checkpoint, and what its user is told."""

import json

import pytest
import torch
import transformers as tf
from own_code import write_own_code
from safetensors.torch import load_file, save_file
from structured_parts import mixed_parts
from structured_strategies import structured_strategy
from tiny import tiny_tokenizer

from unicuco_plugin.errors import ExportError
from unicuco_plugin.models.checkpoints.checkpoint import read_shapes
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.models.parts.kept_parts_file import write_kept_parts
from unicuco_plugin.modifiers.export import saving
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier

LINEAR = {"head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
          "linear_value_head_dim": 8}  # fmt: skip
HEAD = "mtp.layers.0.mlp.up_proj.weight"


@pytest.fixture
def drafting(tmp_path):
    """A model with a multi-token-prediction head beside it, as Qwen3.5 ships it."""
    config = tf.Qwen3_5TextConfig(
        vocab_size=128, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
        num_hidden_layers=4, max_position_embeddings=256, layer_types=["linear_attention", "full_attention"] * 2,
        **LINEAR,
    )  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path / "dense"
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {HEAD: torch.ones(48, 32)}, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mtp_num_hidden_layers": 1}))
    return folder


def test_a_draft_head_comes_along_where_blocks_go(drafting, depth_strategy, tmp_path):
    modifier = SparsityProfileModifier(strategy=depth_strategy(load_model(drafting), (1,)))
    done = prune_with_recipe(drafting, modifier, tmp_path / "out")
    assert HEAD in read_shapes(done.path)
    assert json.loads((done.path / "config.json").read_text())["mtp_num_hidden_layers"] == 1
    [note] = done.notes
    assert note.startswith("holds the dense model's multi-token-prediction head as it was")
    assert done.bytes == sum(path.stat().st_size for path in done.path.glob("*.safetensors"))
    assert done.params == sum(parameter.numel() for parameter in load_model(done.path).parameters())


@pytest.mark.slow
def test_a_draft_head_does_not_count_against_a_limit_on_bytes(drafting, tmp_path, monkeypatch):
    counted = []
    check = "unicuco_plugin.modifiers.export.oneshot.check_limits"
    monkeypatch.setattr(check, lambda _, found: counted.append(found["bytes"]))
    quantiser = "QuantizationModifier: {scheme: FP8_DYNAMIC, targets: [Linear], ignore: [lm_head]}"
    recipe = f"a_stage:\n  b_modifiers:\n    {quantiser}\n"
    done = prune_with_recipe(drafting, recipe, tmp_path / "out")
    assert counted == [done.bytes - 48 * 32 * 4]


@pytest.mark.slow
def test_a_draft_head_stays_behind_where_sizes_change(checkpoint, tmp_path):
    parts = mixed_parts(biases=False)
    model = load_model(checkpoint("llama"))
    model.save_pretrained(tmp_path / "dense")
    tiny_tokenizer(tmp_path / "dense")
    path = tmp_path / "dense" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mtp_num_hidden_layers": 1}))
    write_kept_parts(tmp_path / "kept.parts", parts)
    modifier = SparsityProfileModifier(
        strategy=structured_strategy(load_model(tmp_path / "dense"), parts).to_dict(),
        structured={"kept_parts": str(tmp_path / "kept.parts")},
    )
    done = prune_with_recipe(tmp_path / "dense", modifier, tmp_path / "out")
    assert json.loads((done.path / "config.json").read_text())["mtp_num_hidden_layers"] == 0
    assert done.notes == ()


def test_a_model_with_its_own_code_is_exported_with_it(depth_strategy, tmp_path):
    own_code = write_own_code(tmp_path / "dense")
    strategy = depth_strategy(load_model(own_code, trust_remote_code=True))
    modifier = SparsityProfileModifier(strategy=strategy)
    done = prune_with_recipe(own_code, modifier, tmp_path / "out", trust_remote_code=True)
    assert {"configuration_my.py", "modeling_my.py"} <= {path.name for path in done.path.iterdir()}
    assert "trust_remote_code=True" in (done.path / "README.md").read_text()
    again = load_model(done.path, trust_remote_code=True)
    assert type(again).__name__ == "MyForCausalLM"
    assert again.config.num_hidden_layers == 4


def test_a_contradictory_generation_configuration_does_not_end_a_run(checkpoint, depth_strategy, tmp_path):
    load_model(checkpoint("llama")).save_pretrained(tmp_path / "dense")
    shipped = b'{"do_sample": false, "temperature": 0.6}'
    (tmp_path / "dense" / "generation_config.json").write_bytes(shipped)
    modifier = SparsityProfileModifier(strategy=depth_strategy(load_model(tmp_path / "dense")))
    done = prune_with_recipe(tmp_path / "dense", modifier, tmp_path / "out")
    assert (done.path / "generation_config.json").read_bytes() == shipped
    [note] = done.notes
    assert note.startswith("generation_config.json is kept as it was shipped")


def test_what_transformers_refuses_is_not_written(checkpoint, depth_strategy, tmp_path, monkeypatch):
    def refuse(*_):
        raise ExportError("the checkpoint is no use")

    monkeypatch.setattr(saving, "check_verdict", refuse)
    modifier = SparsityProfileModifier(strategy=depth_strategy(load_model(checkpoint("llama"))))
    with pytest.raises(ExportError, match="the checkpoint is no use"):
        prune_with_recipe(checkpoint("llama"), modifier, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
