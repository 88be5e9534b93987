"""The real small model sparsified by the toolkit's passes: bfloat16, where scores tie."""

import random
from pathlib import Path

import pytest
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from sparsity_strategies import linear_sizes, sparsity_strategy

from unicuco_plugin.answering import load_profile
from unicuco_plugin.models.loading import load_model, load_tokenizer
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.spaces.plan import plan_counts
from unicuco_plugin.texts.calibration import load_windows

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture(scope="module")
def machine():
    """The tiny models run as beside an accelerator, and of this one the export (test_real_export)."""
    return "host"


@pytest.mark.slow
def test_the_shipped_recipe_asks_the_packaged_profile(smollm2, shared_data, tmp_path):
    text = [str(shared_data / "text" / "calib_wikipedia.txt")]
    windows = load_windows(text, load_tokenizer(smollm2), count=2, length=128, seed=0)
    done = prune_with_recipe(smollm2, RECIPES / "sparsity_wanda.yaml", tmp_path / "out", calibration=windows)
    [strategy] = done.strategies
    assert strategy == load_profile("smollm2-135m-instruct-sparsity").answer(sparsity=strategy.request.sparsity)
    share = done.achieved.total("achieved") / done.achieved.weights
    assert share == pytest.approx(strategy.sparsity, abs=1e-3)
    assert len(strategy.units) == 210
    assert strategy.divergence.mean < 1.2


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "blocks"), [(SparseGPTModifier, {"0", "29"}), (WandaPruningModifier, None)])
def test_every_linear_of_the_checkpoint_is_as_near_to_its_plan_as_promised(
    engine, blocks, smollm2, shared_data, tmp_path
):
    chance = random.Random(0)  # noqa: S311 - no secret
    dense = load_model(smollm2)
    sizes = linear_sizes(dense)
    units = {name: chance.uniform(0.2, 0.9) for name in sizes if blocks is None or name.split(".")[2] in blocks}
    strategy = sparsity_strategy(dense, units)
    text = [str(shared_data / "text" / "calib_wikipedia.txt")]
    windows = load_windows(text, load_tokenizer(smollm2), count=4, length=128, seed=0)
    recipe = [SparsityProfileModifier(strategy=strategy), engine(sparsity=0.5, ignore=["re:.*lm_head"])]
    done = prune_with_recipe(smollm2, recipe, tmp_path / "out", calibration=windows)
    model = load_model(done.path)
    for name, planned in plan_counts(units, sizes).items():
        weight = model.get_submodule(name).weight
        bound = 1e-4 if engine is SparseGPTModifier else 1 / weight.shape[1]
        assert abs(int((weight == 0).sum()) - planned) / weight.numel() <= bound, name
