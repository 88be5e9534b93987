"""Strategies of bits and blocks inside the toolkit's lifecycle: blocks dropped, the others' linears stored."""

import json
import re

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from llmcompressor.modifiers.quantization import QuantizationModifier
from safetensors.torch import load_file
from scheme_databases import WIDTHS, build_schemes
from scheme_strategies import scheme_strategy, scheme_units
from tiny import VOCABULARY
from transformers import AutoModelForCausalLM

from unicuco_plugin.costs.offered import find_offered
from unicuco_plugin.costs.stored import leaving_costs
from unicuco_plugin.errors import RecipeError, StrategyError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.modifiers.sources.packing import packed_schemes
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.objectives.units import UnitsEvaluator
from unicuco_plugin.pruning import apply_strategy
from unicuco_plugin.serving.verdict import check_serving
from unicuco_plugin.spaces.compound import CompoundSpace
from unicuco_plugin.spaces.plan import plan_schemes

W8, W4, W3 = WIDTHS
BLOCK = "model.layers.{}"


@pytest.fixture(scope="module")
def dense(checkpoint):
    return load_model(checkpoint("llama"))


@pytest.fixture(scope="module")
def levels(dense, tmp_path_factory):
    return build_schemes(dense, tmp_path_factory.mktemp("levels") / "llama")


def without(model, gone, *schemes):
    """Units of a strategy: schemes in turn, and blocks that are gone."""
    blocks = [BLOCK.format(index) for index in gone]
    stored = {unit: own for unit, own in scheme_units(model, *schemes).items() if unit.rpartition(".")[0]}
    kept = {unit: own for unit, own in stored.items() if not unit.startswith(tuple(f"{block}." for block in blocks))}
    return {**dict.fromkeys(blocks, 1.0), **kept}


def strategy_of(model, units, space="compound"):
    return scheme_strategy(model, units, space=space)


def renumbered(name, gone):
    """The name of a module once blocks are gone, by counting those before it."""
    return re.sub(r"(?<=layers\.)\d+", lambda number: str(int(number[0]) - sum(i < int(number[0]) for i in gone)), name)


def run(checkpoint, tmp_path, units, dense, levels, *others, **options):
    modifier = SparsityProfileModifier(strategy=strategy_of(dense, units), levels=levels and levels.folder)
    return prune_with_recipe(checkpoint("llama"), [modifier, *others], tmp_path / "out", **options)


def check_config(folder, plan, gone):
    config = json.loads((folder / "config.json").read_text())
    found = config["quantization_config"]
    targets = {
        name: group["weights"]["num_bits"]
        for g in found["config_groups"].values()
        for group, names in ((g, g["targets"]),)
        for name in names
    }
    assert targets == {renumbered(name, gone): {W8: 8, W4: 4, W3: 3}[own] for name, own in plan.items()}
    return config, found


@pytest.mark.slow
def test_a_checkpoint_lacks_the_blocks_and_is_what_was_measured(checkpoint, dense, levels, tmp_path):
    gone = (1, 4)
    units = without(dense, gone, W4, W3, None, W8)
    done = run(checkpoint, tmp_path, units, dense, levels)
    plan = plan_schemes({unit: own for unit, own in units.items() if own != 1.0}, levels.shapes)
    config, found = check_config(done.path, plan, gone)
    assert config["num_hidden_layers"] == len(find_decoder(dense).blocks) - 2
    inside = {renumbered(name, gone) for name in levels.shapes if int(name.split(".")[2]) not in gone}
    assert set(found["ignore"]) == inside - {renumbered(name, gone) for name in plan} | {"lm_head"}
    written = load_file(done.path / "model.safetensors")
    assert not any(key.startswith(f"model.layers.{config['num_hidden_layers']}") for key in written)
    for name, own in plan.items():
        for key, tensor in levels.packed(name, own).items():
            assert torch.equal(written[f"{renumbered(name, gone)}.{key}"], tensor), (name, key)
    assert not [entry for entry in check_serving(done.path).errors if entry.rule != "kernel"]
    windows = torch.randint(3, VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(3))
    [measured] = UnitsEvaluator(find_decoder(dense), "compound", windows, levels=levels).evaluate([units])
    loaded = AutoModelForCausalLM.from_pretrained(done.path, dtype=torch.float32).eval()
    with torch.no_grad():
        p, q = (model(input_ids=windows, use_cache=False).logits.double().log_softmax(-1) for model in (dense, loaded))
    assert (p.exp() * (p - q)).sum(-1).mean().item() == pytest.approx(measured.value, rel=1e-3)
    card = (done.path / "README.md").read_text()
    assert "## What was stored in fewer bits or removed" in card and "`model.layers.1`" in card


@pytest.mark.slow
@pytest.mark.parametrize("kept", [((), (W4,)), ((0,), (W3, W8, None, W4)), ((2, 3, 5), (None, W8))])
def test_a_checkpoint_has_the_bytes_and_parameters_that_were_counted(kept, checkpoint, dense, levels, tmp_path):
    gone, schemes = kept
    decoder = find_decoder(dense)
    costs = leaving_costs(decoder, find_offered(decoder, levels).costs)
    units = without(dense, gone, *schemes)
    done = run(checkpoint, tmp_path, units, dense, levels)
    space = CompoundSpace(costs.units, costs.table.unit_params, costs.table.choices)
    x = space.from_units(units)[None]
    tensors = sum(tensor.nbytes for tensor in load_file(done.path / "model.safetensors").values())
    assert 0 <= int(costs.of("bytes", x)) - done.bytes < 0.1 * (done.bytes - tensors)
    assert int(costs.of("params", x)) == done.params
    [said] = done.strategies  # whose sizes were made up, and are counted anew
    assert said.params == done.params
    assert said.bytes == pytest.approx(int(costs.of("bytes", x)), rel=0.01)
    assert said.bits == pytest.approx(costs.of("bits", x).item())
    bits = sum(
        n
        * (
            0.0
            if unit.rpartition(".")[0].rpartition(".")[0] in units
            else {name: bits for name, bits, _ in row}[units.get(unit, "dense")]
        )
        for unit, n, row in zip(costs.units, costs.table.unit_params, costs.table.choices, strict=True)
    )
    assert costs.of("bits", x).item() == pytest.approx(bits / sum(costs.table.unit_params))


@pytest.mark.slow
def test_the_next_quantiser_is_filled_and_its_groups_have_the_names_that_stay(checkpoint, dense, tmp_path):
    gone = (0, 3)
    units = without(dense, gone, W4, W3, None)
    done = run(checkpoint, tmp_path, units, dense, None, QuantizationModifier(ignore=["lm_head"]))
    schemes = {unit: own for unit, own in units.items() if own != 1.0}
    check_config(done.path, plan_schemes(schemes, find_decoder(dense).all_linears()), gone)
    assert not [entry for entry in check_serving(done.path).errors if entry.rule != "kernel"]
    AutoModelForCausalLM.from_pretrained(done.path)


@pytest.mark.slow
def test_blocks_that_go_are_corrected_before_what_stays_is_quantised(checkpoint, dense, levels, tmp_path):
    windows = torch.randint(4, VOCABULARY, (16, 32), generator=torch.Generator().manual_seed(0))
    strategy = strategy_of(dense, without(dense, (1, 3, 4), W8))
    held, found = windows[::4], []
    with torch.no_grad():
        p = dense(held, use_cache=False).logits.double().log_softmax(-1)
        for name in ("none", "ridge"):
            modifier = SparsityProfileModifier(strategy=strategy, compensation=name)
            recipe = [modifier, QuantizationModifier(ignore=["lm_head"])]
            done = prune_with_recipe(checkpoint("llama"), recipe, tmp_path / name, calibration=windows)
            model = AutoModelForCausalLM.from_pretrained(done.path, dtype=torch.float32).eval()
            q = model(held, use_cache=False).logits.double().log_softmax(-1)
            found.append((p.exp() * (p - q)).sum(-1).mean().item())
    assert found[1] < 0.95 * found[0]
    assert "folded in before 2 of 2 cuts, at model.layers.0, model.layers.2;" in done.notes[0]
    modifier = SparsityProfileModifier(strategy=strategy, compensation="ridge", levels=levels.folder)
    with pytest.raises(RecipeError, match="levels holds the dense model's weights, which would replace those"):
        prune_with_recipe(checkpoint("llama"), [modifier], tmp_path / "out", calibration=windows)


def test_explicit_targets_behind_blocks_that_go_are_renamed_in_the_space_depth_too(checkpoint, dense, tmp_path):
    from depth_strategies import whole_block_strategy

    target = "model.layers.4.mlp.down_proj"
    weights = QuantizationArgs(num_bits=4, strategy="channel")
    group = QuantizationScheme(targets=["model.layers.1.mlp.up_proj", target], weights=weights)
    recipe = [
        SparsityProfileModifier(strategy=whole_block_strategy(dense, [1])),
        QuantizationModifier(config_groups={"group_0": group}, ignore=["lm_head"]),
    ]
    done = prune_with_recipe(checkpoint("llama"), recipe, tmp_path / "out")
    found = json.loads((done.path / "config.json").read_text())["quantization_config"]
    assert found["config_groups"]["group_0"]["targets"] == ["model.layers.3.mlp.down_proj"]


@pytest.mark.slow
def test_recipe_yaml_replays_both(checkpoint, dense, levels, tmp_path):
    done = run(checkpoint, tmp_path, without(dense, (2,), W4, W3), dense, levels)
    again = prune_with_recipe(checkpoint("llama"), done.path / "recipe.yaml", tmp_path / "again")
    first, second = (load_file(one.path / "model.safetensors") for one in (done, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_blocks_alone_go_from_the_database_and_are_refused_before_a_quantiser(checkpoint, dense, levels, tmp_path):
    units = {"model.layers.1": 1.0}
    with pytest.raises(RecipeError, match="leaves other linears as they are, so that there is nothing to quantise"):
        run(checkpoint, tmp_path, units, dense, None, QuantizationModifier(ignore=["lm_head"]))
    done = run(checkpoint, tmp_path, units, dense, levels)
    config = json.loads((done.path / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["num_hidden_layers"] == len(find_decoder(dense).blocks) - 1


def test_units_inside_blocks_that_go_and_all_blocks_are_refused(checkpoint, dense, levels, tmp_path):
    with pytest.raises(StrategyError, match=r"units\['model.layers.1.mlp.down_proj'\] must have no scheme where all"):
        strategy_of(dense, {"model.layers.1": 1.0, "model.layers.1.mlp.down_proj": W4})
    with pytest.raises(StrategyError, match="units must all have shares or all have schemes"):
        strategy_of(dense, {"model.layers.1": 1.0, "model.layers.2.mlp.down_proj": W4}, space="sparsity")
    count = len(find_decoder(dense).blocks)
    with pytest.raises(StrategyError):
        run(checkpoint, tmp_path, dict.fromkeys(map(BLOCK.format, range(count)), 1.0), dense, levels)
    with pytest.raises(StrategyError, match="'compound', which also stores weights by schemes: unicuco prune does"):
        apply_strategy(load_model(checkpoint("llama")), strategy_of(dense, without(dense, (1,), W4)))


def test_a_part_of_a_block_alone_is_refused(checkpoint, dense, levels, tmp_path):
    with pytest.raises(StrategyError, match="units must be blocks of the model"):
        run(
            checkpoint,
            tmp_path,
            {"model.layers.1.mlp": 1.0, **without(dense, (1,), W4)} | {"model.layers.1": 1.0},
            dense,
            levels,
        )


@pytest.mark.parametrize("above", ["model.layers", "model"])
def test_a_scheme_of_more_than_the_blocks_that_stay_is_refused(above, dense):
    strategy = strategy_of(dense, {BLOCK.format(1): 1.0, above: W4})
    with pytest.raises(StrategyError, match=r"must give 'model\.layers\.1\..*' no scheme, whose block goes"):
        packed_schemes(dense, strategy)
