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
UNITS = {A.format(1): 0.4, M.format(2): 0.6, M.format(3): 0.5, A.format(0): 0.5}  # the last attention goes whole


@pytest.fixture
def fields(tmp_path, strategy_file):
    """Both strategies of a family's tiny model."""

    def write(family, format="compact", **more):
        model, parts = tiny_model(family), mixed_parts(biases=family != "gemma3")
        write_kept_parts(tmp_path / "kept.parts", parts)
        smaller = strategy_file(structured_strategy(model, parts), "smaller.json")
        sparser = strategy_file(sparsity_strategy(model, UNITS), "sparser.json")
        options = {"kept_parts": str(tmp_path / "kept.parts"), "format": format}
        return {"strategy": [str(sparser), str(smaller)], "structured": options, **more}

    return write


@pytest.fixture
def pruned(fields, checkpoint, calibration, tmp_path):
    """A family's tiny model by both strategies and an engine, written to ``out``."""

    def prune(family, engine):
        recipe = (
            "pruning_stage:\n  pruning_modifiers:\n"
            f"    SparsityProfileModifier: {json.dumps(fields(family))}\n"
            f"    {engine}: {{sparsity: 0.5, ignore: ['re:.*lm_head']}}\n"
        )
        return prune_with_recipe(checkpoint(family), recipe, tmp_path / "out", calibration=calibration).model

    return prune


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
@torch.no_grad()
def test_the_pass_zeroes_its_shares_of_what_is_left(family, engine, pruned, token_ids, tmp_path):
    model = pruned(family, engine)
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
    torch.save(token_ids, tmp_path / "out" / "ids.pt")
    for way in ("ours", "remote"):
        fresh = read_fresh(way, [tmp_path / "out"], tmp_path)[str(tmp_path / "out")]
        torch.testing.assert_close(torch.tensor(fresh["logits"]), model(token_ids).logits.float(), rtol=0, atol=0)


def test_in_the_full_shape_parts_that_are_gone_count_among_the_zeros(fields, checkpoint, calibration, tmp_path):
    modifier = SparsityProfileModifier(**fields("llama", "stock"))
    recipe = [modifier, SparseGPTModifier(sparsity=0.5, ignore=["re:.*lm_head"])]
    done = prune_with_recipe(checkpoint("llama"), recipe, tmp_path / "out", calibration=calibration)
    query = done.model.get_submodule(A.format(1)).q_proj.weight
    assert int((query[: len(query) // 2] == 0).sum()) == query.numel() // 2


def test_a_level_database_is_refused_before_the_model_is_loaded(fields, tmp_path):
    modifier = SparsityProfileModifier(**fields("llama", levels=str(tmp_path / "levels")))
    with pytest.raises(RecipeError, match="levels holds the dense model's linears"):
        prune_with_recipe(tmp_path / "no-model", modifier, tmp_path / "out")
