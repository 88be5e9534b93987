"""Sparsity strategies stitched from a level database, inside the toolkit's lifecycle."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from depth_strategies import whole_block_strategy
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from sparsity_strategies import linear_sizes, sparsity_strategy, uneven_units

from unicuco_plugin.errors import LevelsError, ModelMismatchError, RecipeError
from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.levels.stitch import stitch
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.spaces.plan import plan_counts

WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 16}
W4A16 = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": WEIGHTS}}, "ignore": ["lm_head"]}


@pytest.fixture(scope="module")
def database(checkpoint, calibration, tmp_path_factory):
    """Builds the level database of a tiny family, once."""
    made = {}

    def build(family="llama"):
        if family not in made:
            dense, folder = find_decoder(load_model(checkpoint(family))), tmp_path_factory.mktemp("levels") / family
            settings = LevelSettings(sparsities=(0.3, 0.6, 0.9), block_size=16)
            made[family] = build_levels(dense, calibration, folder, name=family, settings=settings).folder
        return made[family]

    return build


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "phi3"])
def test_a_saved_checkpoint_has_every_planned_zero_to_the_weight(family, checkpoint, database, tmp_path):
    dense = load_model(checkpoint(family))
    strategy = sparsity_strategy(dense, uneven_units(dense))
    modifier = SparsityProfileModifier(strategy=strategy, levels=database(family))
    done = prune_with_recipe(checkpoint(family), [modifier], tmp_path / "out")
    loaded = load_model(done.path)
    plan = plan_counts(strategy.units, linear_sizes(loaded))
    for name in linear_sizes(loaded):
        zeros = int((loaded.get_submodule(name).weight == 0).sum())
        assert zeros == plan.get(name, 0), name
    assert all(row.achieved == row.exported == row.planned for row in done.achieved.linears)
    assert done.achieved.engine == "level database"


@pytest.mark.slow
def test_a_checkpoint_names_its_database_and_says_when_the_divergence_is_of_another(checkpoint, database, tmp_path):
    folder = database()
    identity = Levels.open(folder).record.identity
    for levels, measured in ((identity, True), ("0" * 16, False)):
        strategy = sparsity_strategy(load_model(checkpoint("llama"))).model_copy(update={"levels": levels})
        modifier = SparsityProfileModifier(strategy=strategy, levels=folder)
        done = prune_with_recipe(checkpoint("llama"), [modifier], tmp_path / levels)
        assert json.loads((done.path / "sparsity.json").read_text())["levels"] == identity
        assert ("another level database" in (done.path / "README.md").read_text()) is not measured
        assert (done.divergence_note == "") is measured


@pytest.mark.slow
def test_logits_are_those_of_a_model_stitched_by_hand(checkpoint, database, tmp_path):
    folder = database()
    dense = load_model(checkpoint("llama"))
    strategy = sparsity_strategy(dense, uneven_units(dense))
    done = prune_with_recipe(
        checkpoint("llama"), [SparsityProfileModifier(strategy=strategy, levels=folder)], tmp_path / "out"
    )
    stitch(find_decoder(dense), Levels.open(folder), plan_counts(strategy.units, linear_sizes(dense)))
    tokens = torch.arange(3, 19)[None]
    with torch.inference_mode():
        assert torch.equal(load_model(done.path)(tokens).logits, dense(tokens).logits)


@pytest.mark.slow
def test_it_composes_with_dropped_blocks_and_quantisation(checkpoint, database, tmp_path):
    dense = load_model(checkpoint("llama"))
    strategies = [whole_block_strategy(dense, [1]), sparsity_strategy(dense, uneven_units(dense))]
    modifier = SparsityProfileModifier(strategy=strategies, levels=database())
    done = prune_with_recipe(checkpoint("llama"), [modifier, QuantizationModifier(**W4A16)], tmp_path / "out")
    assert len(done.model.model.layers) == len(dense.model.layers) - 1
    assert not any(row.name.startswith("model.layers.1.") for row in done.achieved.linears)
    assert all(row.achieved == row.planned for row in done.achieved.linears)


@pytest.mark.slow
def test_recipe_yaml_replays(checkpoint, database, tmp_path):
    dense = load_model(checkpoint("llama"))
    modifier = SparsityProfileModifier(strategy=sparsity_strategy(dense, uneven_units(dense)), levels=database())
    first = prune_with_recipe(checkpoint("llama"), [modifier], tmp_path / "first")
    second = prune_with_recipe(checkpoint("llama"), first.path / "recipe.yaml", tmp_path / "second")
    name = "model.safetensors"
    assert (first.path / name).read_bytes() == (second.path / name).read_bytes()


@pytest.mark.slow
def test_a_database_of_another_model_is_refused(checkpoint, database, tmp_path):
    modifier = SparsityProfileModifier(strategy=sparsity_strategy(load_model(checkpoint("qwen3"))), levels=database())
    with pytest.raises(ModelMismatchError, match=r"^level database .* is for llama"):
        prune_with_recipe(checkpoint("qwen3"), [modifier], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_database_is_refused(checkpoint, tmp_path):
    modifier = SparsityProfileModifier(
        strategy=sparsity_strategy(load_model(checkpoint("llama"))), levels=tmp_path / "nowhere"
    )
    with pytest.raises(LevelsError, match="nowhere"):
        prune_with_recipe(checkpoint("llama"), [modifier], tmp_path / "out")


def test_a_database_without_anything_to_stitch_is_refused(checkpoint, database, tmp_path):
    strategy = whole_block_strategy(load_model(checkpoint("llama")), [1])
    modifier = SparsityProfileModifier(strategy=strategy, levels=database())
    with pytest.raises(RecipeError, match=r"space 'sparsity', 'precision', 'compound'; there is none$"):
        prune_with_recipe(checkpoint("llama"), [modifier], tmp_path / "out")


@pytest.mark.parametrize("engine", [SparseGPTModifier, WandaPruningModifier])
def test_a_pass_behind_it_would_prune_twice_and_is_refused(engine, checkpoint, database, calibration, tmp_path):
    modifier = SparsityProfileModifier(strategy=sparsity_strategy(load_model(checkpoint("llama"))), levels=database())
    recipe = [modifier, engine(sparsity=0.5, ignore=["re:.*lm_head"])]
    refused = f"already stitches the strategy's zeros, and {engine.__name__} would prune again"
    with pytest.raises(RecipeError, match=refused):
        prune_with_recipe(checkpoint("llama"), recipe, tmp_path / "out", calibration=calibration)
    assert not (tmp_path / "out").exists()


def test_a_file_of_the_right_size_and_another_content_is_refused(checkpoint, database, tmp_path):
    folder = Path(shutil.copytree(database(), tmp_path / "levels"))
    file = next(folder.glob("*.layers.1.*up_proj.safetensors"))
    data = bytearray(file.read_bytes())
    data[-8:] = bytes(8)
    file.write_bytes(data)
    modifier = SparsityProfileModifier(strategy=sparsity_strategy(load_model(checkpoint("llama"))), levels=folder)
    with pytest.raises(LevelsError, match=r"up_proj\.safetensors was edited or damaged: .*--resume solves it again"):
        prune_with_recipe(checkpoint("llama"), [modifier], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_strategy_that_zeroes_nothing_is_refused(checkpoint, database, tmp_path):
    strategy = sparsity_strategy(load_model(checkpoint("llama")), {})
    modifier = SparsityProfileModifier(strategy=strategy, levels=database())
    with pytest.raises(RecipeError, match="the strategy zeroes no weight of the 0 linears"):
        prune_with_recipe(checkpoint("llama"), [modifier], tmp_path / "out")
