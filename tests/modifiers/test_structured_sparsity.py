"""Head groups, neurons and modules taken out, and weights of what is left zeroed, in one recipe."""

import json

import pytest
import torch
from compact_fresh import read_fresh
from llmcompressor.modifiers.pruning import SparseGPTModifier
from sparsity_strategies import linear_sizes, sparsity_strategy
from structured_parts import A, M, mixed_parts
from structured_strategies import structured_strategy
from tiny import tiny_model

from unicuco_plugin.errors import RecipeError
from unicuco_plugin.models.parts.kept_parts_file import write_kept_parts
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier

pytestmark = pytest.mark.slow

ENGINES = ["SparseGPTModifier", "WandaPruningModifier"]
CASES = [(family, engine) for family in ("llama", "gemma3") for engine in ENGINES]
UNITS = {A.format(1): 0.4, M.format(2): 0.6, M.format(3): 0.5, A.format(0): 0.5}  # the last attention goes whole


def both_strategies(family, folder, format="compact", **more):
    """The modifier's fields for both strategies of a family's tiny model, in files."""
    model, parts = tiny_model(family), mixed_parts(biases=family != "gemma3")
    write_kept_parts(folder / "kept.parts", parts)
    strategies = {"sparser": sparsity_strategy(model, UNITS), "smaller": structured_strategy(model, parts)}
    for name, strategy in strategies.items():
        (folder / f"{name}.json").write_text(strategy.to_json(), encoding="utf8")
    options = {"kept_parts": str(folder / "kept.parts"), "format": format}
    return {"strategy": [str(folder / f"{name}.json") for name in strategies], "structured": options, **more}


@pytest.fixture(scope="module")
def exports(checkpoint, calibration, token_ids, tmp_path_factory, machine):
    """Tiny models by both strategies and an engine, in memory, and what fresh processes find in their folders."""
    folder, models = tmp_path_factory.mktemp("exports"), {}
    for family, engine in CASES:
        (folder / family).mkdir(exist_ok=True)
        recipe = (
            "pruning_stage:\n  pruning_modifiers:\n"
            f"    SparsityProfileModifier: {json.dumps(both_strategies(family, folder / family))}\n"
            f"    {engine}: {{sparsity: 0.5, ignore: ['re:.*lm_head']}}\n"
        )
        output = folder / family / engine
        models[output] = prune_with_recipe(checkpoint(family), recipe, output, calibration=calibration).model
        torch.save(token_ids, output / "ids.pt")
    ways = read_fresh(models, folder, "ours", "remote", again=False)
    found = [(model, [way[str(output)] for way in ways.values()]) for output, model in models.items()]
    return dict(zip(CASES, found, strict=True))


@pytest.mark.parametrize(("family", "engine"), CASES)
@torch.no_grad()
def test_the_pass_zeroes_its_shares_of_what_is_left(family, engine, exports, token_ids):
    model, found_afresh = exports[family, engine]
    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    dense = linear_sizes(tiny_model(family))
    assert A.format(0) + ".q_proj" not in linears
    assert linears[A.format(1) + ".q_proj"].weight.numel() == dense[A.format(1) + ".q_proj"] // 2
    for module, share in UNITS.items():
        found = {name: linear.weight for name, linear in linears.items() if name.startswith(module)}
        assert len(found) == (0 if module == A.format(0) else 4 if module == A.format(1) else 3)
        for name, weight in found.items():
            slack = 1 if engine == ENGINES[0] else weight.shape[0]
            assert int((weight == 0).sum()) == pytest.approx(share * weight.numel(), abs=slack), name
    untouched = linears[M.format(0) + ".up_proj"].weight
    assert torch.equal(untouched, tiny_model(family).get_submodule(M.format(0)).up_proj.weight[::3])
    for fresh in found_afresh:
        torch.testing.assert_close(torch.tensor(fresh["logits"]), model(token_ids).logits.float(), rtol=0, atol=0)


def test_in_the_full_shape_parts_that_are_gone_count_among_the_zeros(checkpoint, calibration, tmp_path):
    modifier = SparsityProfileModifier(**both_strategies("llama", tmp_path, "stock"))
    recipe = [modifier, SparseGPTModifier(sparsity=0.5, ignore=["re:.*lm_head"])]
    done = prune_with_recipe(checkpoint("llama"), recipe, tmp_path / "out", calibration=calibration)
    query = done.model.get_submodule(A.format(1)).q_proj.weight
    assert int((query[: len(query) // 2] == 0).sum()) == query.numel() // 2


def test_a_level_database_is_refused_before_the_model_is_loaded(tmp_path):
    modifier = SparsityProfileModifier(**both_strategies("llama", tmp_path, levels=str(tmp_path / "levels")))
    with pytest.raises(RecipeError, match="levels holds the dense model's linears"):
        prune_with_recipe(tmp_path / "no-model", modifier, tmp_path / "out")
