"""``unicuco prune --format deci``: halves absent and MLPs narrower, in the form that vLLM loads."""

import json

import pytest
import torch
from depth_strategies import sublayer_strategy
from structured_parts import A, M, masked_logits
from structured_strategies import structured_strategy
from tiny import tiny_model

import unicuco_plugin
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.kept_parts_file import KEPT_PARTS_FILE, write_kept_parts
from unicuco_plugin.modifiers.export.oneshot import prune as prune_model

pytestmark = pytest.mark.usefixtures("machine")

HALVES = KeptParts({A.format(1): (), M.format(2): (), A.format(3): (), M.format(3): ()})
NARROW = KeptParts({A.format(1): (), M.format(2): tuple(range(0, 48, 2))})
IDS = torch.arange(3, 43)[None]
QUANTISED = """
pruning_stage:
  pruning_modifiers:
    SparsityProfileModifier: {{strategy: '{strategy}', structured: {{format: deci}}}}
    QuantizationModifier:
      ignore: [lm_head]
      config_groups:
        four:
          targets: [Linear]
          weights: {{num_bits: 4, type: int, strategy: group, group_size: 16, symmetric: true}}
"""


def masked(parts):
    with torch.no_grad():
        return masked_logits(find_decoder(tiny_model("llama")), parts, IDS)


def halves(dense, folder):
    strategy = sublayer_strategy(load_model(dense), units=dict.fromkeys(HALVES.kept, 1.0))
    (folder / "s.json").write_text(strategy.to_json())
    return folder / "s.json"


@pytest.mark.slow
@torch.no_grad()
def test_halves_leave_the_checkpoint(unicuco, dense, tmp_path):
    given = ("prune", "--model", dense, "--output", tmp_path / "out", "--strategy", halves(dense, tmp_path))
    done = unicuco(*given, "--format", "deci")
    assert done.exit_code == 0, done.stderr
    assert "format      deci: blocks differ in size; vLLM loads it with --trust-remote-code" in done.stdout
    assert "zeros" not in done.stdout
    card = (tmp_path / "out" / "README.md").read_text()
    assert "vllm serve path/to/this/folder --trust-remote-code" in card
    assert card.count("trust_remote_code=True)") == 2
    assert "save no bytes" not in card
    assert not (tmp_path / "out" / KEPT_PARTS_FILE).exists()
    loaded, whole = unicuco_plugin.load(tmp_path / "out"), load_model(dense)
    torch.testing.assert_close(loaded(IDS).logits, masked(HALVES), rtol=1e-4, atol=1e-4)
    strategy = json.loads((tmp_path / "out" / "strategy.json").read_text())
    assert strategy["params"] == loaded.num_parameters() < whole.num_parameters()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "_name_or_path" not in config
    assert len(config["block_configs"]) == config["num_hidden_layers"] == 5
    # What is written beside the checkpoint makes it again.
    again = unicuco(
        "prune", "--model", dense, "--output", tmp_path / "again", "--recipe", tmp_path / "out" / "recipe.yaml"
    )
    assert again.exit_code == 0, again.stderr
    assert "says" not in again.stderr  # its size is right
    assert torch.equal(unicuco_plugin.load(tmp_path / "again")(IDS).logits, loaded(IDS).logits)


@pytest.mark.slow
@torch.no_grad()
def test_narrower_mlps_do_too(unicuco, dense, tmp_path):
    write_kept_parts(tmp_path / "some.parts", NARROW)
    (tmp_path / "s.json").write_text(structured_strategy(load_model(dense), NARROW).to_json())
    given = ("prune", "--model", dense, "--output", tmp_path / "out", "--strategy", tmp_path / "s.json")
    done = unicuco(*given, "--kept-parts", tmp_path / "some.parts", "--format", "deci", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["format"] == "deci"
    loaded = unicuco_plugin.load(tmp_path / "out")
    torch.testing.assert_close(loaded(IDS).logits, masked(NARROW), rtol=1e-4, atol=1e-4)
    assert loaded.model.layers[2].mlp.down_proj.in_features == 24
    again = unicuco(
        "prune", "--model", dense, "--output", tmp_path / "again", "--recipe", tmp_path / "out" / "recipe.yaml"
    )
    assert again.exit_code == 0, again.stderr
    assert torch.equal(unicuco_plugin.load(tmp_path / "again")(IDS).logits, loaded(IDS).logits)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [HALVES, KeptParts({A.format(3): (), M.format(3): ()})])
def test_auto_takes_it_where_a_half_goes(parts, unicuco, dense, tmp_path):
    strategy = sublayer_strategy(load_model(dense), units=dict.fromkeys(parts.kept, 1.0))
    (tmp_path / "s.json").write_text(strategy.to_json())
    given = ("prune", "--model", dense, "--output", tmp_path / "out", "--strategy", tmp_path / "s.json")
    done = unicuco(*given, "--format", "auto", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["format"] == ("deci" if parts is HALVES else None)


@pytest.mark.slow
@torch.no_grad()
def test_four_bits_follow_in_one_recipe_and_the_preflight_check_finds_the_packed_linears(unicuco, dense, tmp_path):
    (tmp_path / "r.yaml").write_text(QUANTISED.format(strategy=halves(dense, tmp_path)))
    done = prune_model(dense, tmp_path / "r.yaml", tmp_path / "out")
    assert done.format == "deci"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "nemotron-nas"
    assert config["quantization_config"]["format"] == "pack-quantized"
    names = {name for path in (tmp_path / "out").glob("*.safetensors") for name in _names(path)}
    assert "model.layers.0.self_attn.q_proj.weight_packed" in names
    assert not any(name.startswith("model.layers.1.self_attn.") for name in names)
    found = unicuco("check", tmp_path / "out", "--json")
    assert json.loads(found.stdout)["loads"], found.stdout


def _names(path):
    length = int.from_bytes(path.read_bytes()[:8], "little")
    return json.loads(path.read_bytes()[8 : 8 + length])


def test_the_form_goes_with_parts_and_halves_alone(unicuco, dense, profile, tmp_path):
    given = ("prune", "--model", dense, "--output", tmp_path / "out", "--profile", profile, "--sparsity", "0.3")
    done = unicuco(*given, "--format", "deci")
    assert done.exit_code != 0
    assert "the formats auto and deci also go with 'sublayer'" in done.stderr
    strategy = halves(dense, tmp_path)
    done = unicuco(
        "prune", "--model", dense, "--output", tmp_path / "out", "--strategy", strategy, "--format", "compact"
    )
    assert done.exit_code != 0
    assert not (tmp_path / "out").exists()
