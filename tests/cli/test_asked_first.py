"""What cannot be exported in the end is refused by every command at its start, from the configuration alone."""

import json

import pytest
import transformers as tf
import yaml
from depth_strategies import whole_block_strategy
from tiny import tiny_model, tiny_tokenizer
from tiny_moe import MIXTURES

REFUSAL = "error: llama: Transformers builds no model from its configuration: "


@pytest.fixture(scope="session")
def unread(tmp_path_factory):
    """A model that cannot be built, without weights: whoever asks for them fails."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    config = tf.LlamaConfig(
        vocab_size=128, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
        num_hidden_layers=4, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | {"hidden_act": "no such function"}))
    tiny_tokenizer(folder)
    return folder


def training(model, text, output, tmp_path):
    return "train", "--model", model, "--calibration", text, "--output", output


def levels(model, text, output, tmp_path):
    return "levels", "build", "--model", model, "--calibration", text, "--output", output


def benchmark(model, text, output, tmp_path):
    windows = {"sources": [str(text)], "windows": 2, "seq_length": 16}
    plan = {
        "model": str(model), "calibration": windows, "evaluation": {"prose": windows}, "budgets": [0.3],
        "methods": {"shortgpt": {"peer": "shortgpt"}},
    }  # fmt: skip
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    return "benchmark", tmp_path / "plan.yaml", "--output", output


def pruning(model, text, output, tmp_path):
    ways = ("--peer", "shortgpt", "--sparsity", 0.3, "--calibration", text, "--samples", 4, "--seq-length", 16)
    return "prune", "--model", model, "--output", output, *ways


def quantising(model, text, output, tmp_path):
    recipe = "a_stage:\n  b_modifiers:\n    QuantizationModifier: {scheme: FP8_DYNAMIC, targets: [Linear]}\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    return "prune", "--model", model, "--output", output, "--recipe", tmp_path / "recipe.yaml"


@pytest.mark.parametrize("command", [training, levels, benchmark, pruning, quantising], ids=lambda c: c.__name__)
def test_every_command_asks_before_a_weight_is_read(command, unicuco, unread, text, tmp_path):
    output = tmp_path / "out"
    result = unicuco(*command(unread, text, output, tmp_path))
    assert result.exit_code == 1
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith(REFUSAL)
    assert len(lines[-1]) <= 300
    assert not output.exists() or not [path for path in output.iterdir() if not path.name.startswith(".unicuco")]


def test_experts_that_transformers_would_not_find_quantised_are_refused_before_a_weight_is_read(unicuco, tmp_path):
    config = MIXTURES["mixtral"]()
    config.architectures = ["MixtralForCausalLM"]
    config.save_pretrained(tmp_path / "model")
    tiny_tokenizer(tmp_path / "model")
    recipe = "a_stage:\n  b_modifiers:\n    QuantizationModifier: {scheme: INT8, targets: [Linear]}\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    result = unicuco(
        "prune", "--model", tmp_path / "model", "--output", tmp_path / "out", "--recipe", tmp_path / "recipe.yaml"
    )
    assert result.exit_code == 1
    assert result.stderr.strip().splitlines()[-1] == (
        "error: QuantizationModifier: MixtralForCausalLM would not load again: Transformers reads quantised experts in "
        "FP8 or packed integers alone; use FP8_DYNAMIC or W4A16"
    )


def test_a_strategy_by_hand_that_takes_all_attention_is_refused_before_a_weight_is_read(unicuco, tmp_path):
    model = tiny_model("lfm2")
    model.config.architectures = ["Lfm2ForCausalLM"]
    model.config.save_pretrained(tmp_path / "hybrid")  # the configuration alone
    tiny_tokenizer(tmp_path / "hybrid")
    (tmp_path / "s.json").write_text(whole_block_strategy(model, (2, 5)).to_json())
    ways = ("--strategy", tmp_path / "s.json", "--output", tmp_path / "out")
    result = unicuco("prune", "--model", tmp_path / "hybrid", *ways)
    assert result.exit_code == 1
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith(
        "error: units must leave one of the 2 blocks model.layers.2, model.layers.5: Transformers'"
    )
    assert len(message) <= 300
