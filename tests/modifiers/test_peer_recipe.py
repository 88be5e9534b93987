"""Peers and files of EvoPress in a recipe, from the toolkit's calibration data to the checkpoint."""

import json

import pytest
import yaml
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import WandaPruningModifier
from sparsity_strategies import linear_sizes
from tiny import tiny_model

from unicuco_plugin.errors import RecipeError, StrategyError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.peers.evopress_files import write_drops, write_levels
from unicuco_plugin.peers.peer import PeerRequest
from unicuco_plugin.plugins.manager import make_peer

OWL = """
pruning_stage:
  pruning_modifiers:
    SparsityProfileModifier:
      peer: owl
      request: {sparsity: 0.6}
    WandaPruningModifier:
      sparsity: 0.5
      ignore: [lm_head]
"""


@pytest.mark.slow
def test_a_recipe_with_owl_gives_every_block_what_owl_says(checkpoint, tmp_path, calibration):
    done = prune_with_recipe(checkpoint("llama"), OWL, tmp_path / "out", calibration=calibration)
    dense = tiny_model("llama")
    expected = make_peer("owl")(PeerRequest(find_decoder(dense), calibration, 0.6)).units
    [strategy] = done.strategies
    assert strategy.units == pytest.approx(expected, rel=1e-6)
    assert (strategy.source, strategy.peer, strategy.divergence) == ("peer", "owl", None)
    for block, share in expected.items():
        sizes = {name: n for name, n in linear_sizes(dense).items() if name.startswith(f"{block}.")}
        zeros = sum(int((done.model.get_submodule(name).weight == 0).sum()) for name in sizes)
        # Wanda rounds to whole weights a row.
        assert zeros / sum(sizes.values()) == pytest.approx(share, abs=1 / 32)


@pytest.mark.slow
def test_what_owl_said_is_written_down_and_replays_without_it(checkpoint, tmp_path, calibration):
    done = prune_with_recipe(checkpoint("llama"), OWL, tmp_path / "out", calibration=calibration)
    [stage] = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text()).values()
    written = stage["pruning_modifiers"]["SparsityProfileModifier"]
    assert written["provenance"] == [{"peer": {"name": "owl"}, "request": {"sparsity": 0.6}}]
    assert written["strategy"]["units"] == done.strategies[0].units
    assert json.loads((tmp_path / "out" / "strategy.json").read_text())["divergence"] is None
    assert "answered by the method `owl`" in (tmp_path / "out" / "README.md").read_text()
    again = prune_with_recipe(
        checkpoint("llama"), tmp_path / "out" / "recipe.yaml", tmp_path / "again", calibration=calibration
    )
    assert again.strategies == done.strategies


def test_a_peer_that_ranks_blocks_drops_them_and_needs_no_pass(checkpoint, tmp_path, calibration):
    modifier = SparsityProfileModifier(peer="shortgpt", request={"sparsity": 0.3})
    done = prune_with_recipe(checkpoint("llama"), modifier, tmp_path / "out", calibration=calibration)
    assert load_model(tmp_path / "out").config.num_hidden_layers == 4
    assert done.params == done.strategies[0].params


@pytest.mark.parametrize("peer", ["owl", "shortgpt"])
def test_a_peer_that_reads_text_is_refused_where_there_is_none(checkpoint, tmp_path, peer):
    modifiers = [SparsityProfileModifier(peer=peer, request={"sparsity": 0.3})]
    modifiers += [WandaPruningModifier(sparsity=0.5)] if peer == "owl" else []
    with pytest.raises(RecipeError, match=r"^SparsityProfileModifier.* needs calibration text, got none"):
        prune_with_recipe(checkpoint("llama"), modifiers, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_toolkit_without_data_is_refused_too(checkpoint):
    modifier = SparsityProfileModifier(peer="shortgpt", request={"sparsity": 0.3})
    with pytest.raises(RecipeError, match="reads calibration text, got none; give oneshot a dataset"):
        oneshot(model=load_model(checkpoint("llama")), recipe=[modifier])


def test_an_evopress_file_of_whole_blocks_drops_them(checkpoint, tmp_path):
    write_drops(tmp_path / "drops.txt", ["none", "attn+mlp", "none", "attn+mlp", "none", "none"])
    done = prune_with_recipe(
        checkpoint("llama"), SparsityProfileModifier(evopress=tmp_path / "drops.txt"), tmp_path / "out"
    )
    assert load_model(tmp_path / "out").config.num_hidden_layers == 4
    [strategy] = done.strategies
    assert (strategy.source, list(strategy.units)) == ("evopress_file", ["model.layers.1", "model.layers.3"])
    assert strategy.sparsity == pytest.approx(2 / 6)


@pytest.mark.slow
def test_an_evopress_file_of_levels_is_met_to_the_row(checkpoint, tmp_path, calibration):
    sizes = linear_sizes(tiny_model("llama"))
    levels = dict.fromkeys(sizes, 0) | {"model.layers.0.mlp.up_proj": 3, "model.layers.5.mlp.up_proj": -3}
    write_levels(tmp_path / "levels.txt", levels)
    entry = {"file": tmp_path / "levels.txt", "sparsity": 0.5, "step": 96}
    modifiers = [SparsityProfileModifier(evopress=entry), WandaPruningModifier(sparsity=0.5, ignore=["lm_head"])]
    done = prune_with_recipe(checkpoint("llama"), modifiers, tmp_path / "out", calibration=calibration)
    for name, level in levels.items():
        zeros = int((done.model.get_submodule(name).weight == 0).sum())
        assert zeros == 0.5 * sizes[name] + 96 * level


def test_an_evopress_file_of_another_model_is_refused(checkpoint, tmp_path):
    write_drops(tmp_path / "drops.txt", ["none", "attn+mlp"])
    with pytest.raises(StrategyError, match=r"drops.txt: drops must be one line for each of 6 blocks, got 2"):
        prune_with_recipe(checkpoint("llama"), SparsityProfileModifier(evopress=tmp_path / "drops.txt"), tmp_path / "o")
