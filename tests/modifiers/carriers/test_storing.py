"""Strategies of bits inside the toolkit's lifecycle: from a level database, and by the recipe's own quantiser."""

import json

import pytest
import torch
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
from safetensors.torch import load_file
from scheme_databases import WIDTHS, build_schemes
from scheme_strategies import scheme_strategy, scheme_units
from tiny import VOCABULARY, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from unicuco_plugin.costs.stored import scheme_costs
from unicuco_plugin.errors import LevelsError, ModelMismatchError, RecipeError, StrategyError
from unicuco_plugin.levels.experts import split_experts
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.fused_units import fused_units
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.modifiers.carriers.storing import StoreHandler
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.modifiers.sources import identity
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.objectives.units import UnitsEvaluator
from unicuco_plugin.serving.verdict import check_serving
from unicuco_plugin.spaces.plan import plan_schemes

W8, W4, W3 = WIDTHS
SCHEMES = (*WIDTHS, "W4A16:channel:asym", "W8A8")


@pytest.fixture(scope="module")
def database(checkpoint, tmp_path_factory):
    """Builds the database of a tiny family, once."""
    made = {}

    def build(family="llama"):
        if family not in made:
            folder = tmp_path_factory.mktemp("levels") / family
            made[family] = build_schemes(load_model(checkpoint(family)), folder, SCHEMES).folder
        return made[family]

    return build


def open_levels(folder):
    from unicuco_plugin.levels.scheme_levels import SchemeLevels

    return SchemeLevels.open(folder)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3"])
def test_a_checkpoint_has_the_databases_tensors_and_is_what_was_measured(family, checkpoint, database, tmp_path):
    dense = load_model(checkpoint(family))
    units = scheme_units(dense, W4, W3, None, "W4A16:channel:asym", W8)
    strategy = scheme_strategy(dense, units)
    folder = database(family)
    done = prune_with_recipe(
        checkpoint(family), [SparsityProfileModifier(strategy=strategy, levels=folder)], tmp_path / "out"
    )
    levels = open_levels(folder)
    plan = plan_schemes(units, levels.shapes)
    written = load_file(done.path / "model.safetensors")
    for name in levels.shapes:
        if name in plan:
            packed = levels.packed(name, plan[name])
            assert {key for key in written if key.startswith(f"{name}.weight")} == {f"{name}.{key}" for key in packed}
            for key, tensor in packed.items():
                assert torch.equal(written[f"{name}.{key}"], tensor), (name, key)
        else:
            assert torch.equal(written[f"{name}.weight"], dense.get_submodule(name).weight)
    config = json.loads((done.path / "config.json").read_text())["quantization_config"]
    assert config["format"] == "pack-quantized"
    targets = [name for group in config["config_groups"].values() for name in group["targets"]]
    assert sorted(targets) == sorted(plan)
    assert set(config["ignore"]) == {unit for unit in levels.shapes if unit not in plan} | {"lm_head"}
    windows = torch.randint(3, VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(3))
    [measured] = UnitsEvaluator(find_decoder(dense), "precision", windows, levels=levels).evaluate([units])
    loaded = AutoModelForCausalLM.from_pretrained(done.path, dtype=torch.float32).eval()
    with torch.no_grad():
        p, q = (model(input_ids=windows, use_cache=False).logits.double().log_softmax(-1) for model in (dense, loaded))
    assert (p.exp() * (p - q)).sum(-1).mean().item() == pytest.approx(measured.value, rel=1e-3)


@pytest.mark.slow
def test_the_model_is_hashed_once_whatever_asks(checkpoint, database, tmp_path, monkeypatch):
    dense = load_model(checkpoint("llama"))
    strategy = scheme_strategy(dense, scheme_units(dense, W4))
    hashed = []
    monkeypatch.setattr(identity, "fingerprint", lambda model: hashed.append(model) or fingerprint(model))
    prune_with_recipe(
        checkpoint("llama"), [SparsityProfileModifier(strategy=strategy, levels=database())], tmp_path / "out"
    )
    assert len(hashed) == 1


@pytest.mark.slow
def test_a_checkpoint_has_the_bytes_that_were_counted_but_for_padding(checkpoint, database, tmp_path):
    dense = load_model(checkpoint("llama"))
    decoder = find_decoder(dense)
    packed = {unit.name: unit.linears for unit in fused_units(dense) if unit.name != "lm_head"}
    offered = dict.fromkeys(packed, (W8, W4, W3))
    costs = scheme_costs(decoder, packed, offered)
    for place, schemes in enumerate(((W4,), (W3, W8, None, W4), (None, None, W8))):
        units = scheme_units(dense, *schemes)
        modifier = SparsityProfileModifier(strategy=scheme_strategy(dense, units), levels=database())
        done = prune_with_recipe(checkpoint("llama"), [modifier], tmp_path / f"out{place}")
        promised = costs.table.total_bytes - sum(costs.table.unit_bytes)
        for unit, row in zip(costs.units, costs.table.choices, strict=True):
            promised += next(size for name, _, size in row if name == units.get(unit, "dense"))
        tensors = sum(tensor.nbytes for tensor in load_file(done.path / "model.safetensors").values())
        header = done.bytes - tensors
        assert 0 <= promised - done.bytes < 0.1 * header


@pytest.mark.slow
def test_what_is_written_loads_in_vllm_as_far_as_is_known_without_it(checkpoint, database, tmp_path):
    dense = load_model(checkpoint("llama"))
    for name, schemes in (("mixed", (W4, W3, None, W8)), ("inputs", (W4, "W8A8"))):
        modifier = SparsityProfileModifier(
            strategy=scheme_strategy(dense, scheme_units(dense, *schemes)), levels=database()
        )
        done = prune_with_recipe(checkpoint("llama"), [modifier], tmp_path / name)
        verdict = check_serving(done.path)
        assert not [entry for entry in verdict.errors if entry.rule != "kernel"], verdict.errors
    config = json.loads((tmp_path / "inputs" / "config.json").read_text())["quantization_config"]
    assert config["format"] == "mixed-precision"
    assert {group["format"] for group in config["config_groups"].values()} == {"pack-quantized", "int-quantized"}


@pytest.mark.slow
def test_the_card_and_the_notes_say_what_was_done(checkpoint, database, tmp_path):
    folder = database()
    dense = load_model(checkpoint("llama"))
    strategy = scheme_strategy(dense, scheme_units(dense, W4, W3), levels=open_levels(folder).record.identity)
    done = prune_with_recipe(
        checkpoint("llama"), [SparsityProfileModifier(strategy=strategy, levels=folder)], tmp_path / "out"
    )
    card = (done.path / "README.md").read_text()
    assert "## What was stored in fewer bits" in card and "`W4A16:channel`" in card
    assert done.divergence_note == ""
    assert done.params == sum(parameter.numel() for parameter in dense.parameters())
    other = strategy.model_copy(update={"levels": "0" * 16})
    again = prune_with_recipe(
        checkpoint("llama"), [SparsityProfileModifier(strategy=other, levels=folder)], tmp_path / "again"
    )
    assert "another level database" in again.divergence_note


@pytest.mark.slow
def test_recipe_yaml_replays(checkpoint, database, tmp_path):
    dense = load_model(checkpoint("llama"))
    strategy = scheme_strategy(dense, scheme_units(dense, W4, W3))
    modifier = SparsityProfileModifier(strategy=strategy, levels=database())
    done = prune_with_recipe(checkpoint("llama"), [modifier], tmp_path / "out")
    again = prune_with_recipe(checkpoint("llama"), done.path / "recipe.yaml", tmp_path / "again")
    first, second = (load_file(one.path / "model.safetensors") for one in (done, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("quantiser", [QuantizationModifier, GPTQModifier])
def test_the_next_quantiser_of_a_recipe_is_filled(quantiser, checkpoint, calibration, tmp_path):
    dense = load_model(checkpoint("llama"))
    units = scheme_units(dense, W4, W3, None)
    modifiers = [SparsityProfileModifier(strategy=scheme_strategy(dense, units)), quantiser(ignore=["lm_head"])]
    done = prune_with_recipe(checkpoint("llama"), modifiers, tmp_path / "out", calibration=calibration)
    plan = plan_schemes(units, find_decoder(dense).all_linears())
    config = json.loads((done.path / "config.json").read_text())["quantization_config"]
    found = {
        name: (group["weights"]["num_bits"], group["weights"]["strategy"])
        for group in config["config_groups"].values()
        for name in group["targets"]
    }
    assert found == {name: ({W4: 4, W3: 3}[scheme], "channel") for name, scheme in plan.items()}
    assert quantiser.__name__ in done.divergence_note
    assert not [entry for entry in check_serving(done.path).errors if entry.rule != "kernel"]


def split_units():
    return {"model.layers.0.self_attn.q_proj": W4, "model.layers.0.self_attn.k_proj+v_proj": W3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("units", "message"),
    [
        (
            split_units(),
            r"give 'model\.layers\.0\.self_attn\.q_proj\+k_proj\+v_proj' one scheme.*q_proj has W4A16:channel",
        ),
        ({"model.layers.0.mlp.up_proj": W4}, r"gate_proj has dense and up_proj W4A16:channel"),
        ({"model.layers.9.mlp.up_proj": W4}, r"'model\.layers\.9\.mlp\.up_proj' covers none"),
    ],
)
def test_units_that_a_server_packs_and_a_file_splits_are_refused_before_anything_is_saved(
    units, message, checkpoint, database, tmp_path
):
    strategy = scheme_strategy(load_model(checkpoint("llama")), units)
    for levels, others in ((database(), []), (None, [QuantizationModifier(ignore=["lm_head"])])):
        modifier = SparsityProfileModifier(strategy=strategy, levels=levels)
        with pytest.raises(StrategyError, match=message):
            prune_with_recipe(checkpoint("llama"), [modifier, *others], tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_recipes_that_would_quantise_twice_or_not_at_all_are_refused(checkpoint, database, tmp_path):
    dense = load_model(checkpoint("llama"))
    strategy = scheme_strategy(dense, scheme_units(dense, W4))
    own = QuantizationModifier(scheme="W4A16", targets=["Linear"])
    hidden = QuantizationModifier(ignore=["re:.*down_proj"])
    for levels, others, message in (
        (None, [], "needs GPTQModifier, QuantizationModifier, AWQModifier or AutoRoundModifier after"),
        (None, [own], "QuantizationModifier: scheme must be left out to be filled by a strategy"),
        (None, [hidden], r"ignore \['re:.*down_proj'\] matches linears that the strategy names"),
        (database(), [QuantizationModifier()], "levels already holds quantised weights"),
    ):
        modifier = SparsityProfileModifier(strategy=strategy, levels=levels)
        with pytest.raises(RecipeError, match=message):
            prune_with_recipe(checkpoint("llama"), [modifier, *others], tmp_path / "out")
    # Whatever it makes of norms and weights, the database's linears know nothing of.
    for smooth_first in (True, False):
        modifier = SparsityProfileModifier(strategy=strategy, levels=database())
        recipe = [SmoothQuantModifier(), modifier] if smooth_first else [modifier, SmoothQuantModifier()]
        with pytest.raises(RecipeError, match="what SmoothQuantModifier makes of its weights would be lost"):
            modifier.check_recipe(recipe)
    with pytest.raises(RecipeError, match="precision names linears of the dense model, which sparsity changes"):
        from sparsity_strategies import sparsity_strategy

        both = [strategy, sparsity_strategy(dense)]
        prune_with_recipe(checkpoint("llama"), [SparsityProfileModifier(strategy=both)], tmp_path / "out")


@pytest.mark.slow
def test_other_weights_are_stored_from_a_database_of_their_own(checkpoint, database, tmp_path):
    dense = load_model(checkpoint("llama"))
    strategy = scheme_strategy(dense, scheme_units(dense, W4))
    tuned = tiny_model("llama", seed=1)
    tuned.save_pretrained(tmp_path / "tuned")
    tiny_tokenizer(tmp_path / "tuned")
    own = build_schemes(load_model(tmp_path / "tuned"), tmp_path / "own", SCHEMES)

    def modifier(levels):
        return SparsityProfileModifier(strategy=strategy, levels=levels, accept_other_weights=True)

    with pytest.raises(ModelMismatchError, match="got a model with fingerprint"):
        prune_with_recipe(tmp_path / "tuned", [modifier(database())], tmp_path / "out")
    prune_with_recipe(tmp_path / "tuned", [modifier(own.folder)], tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    name = next(iter(own.shapes))
    assert torch.equal(stored[f"{name}.weight_packed"], own.packed(name, W4)["weight_packed"])


@pytest.mark.slow
def test_what_breaks_off_half_way_leaves_the_dense_model(checkpoint, database, monkeypatch):
    model = load_model(checkpoint("llama"))
    strategy = scheme_strategy(model, scheme_units(model, W4))
    ids = torch.arange(3, 11)[None]
    with torch.no_grad():
        before = model(ids).logits
    handler = StoreHandler(model, strategy.model.fingerprint, strategy, database())
    names, stored = list(handler._linears), StoreHandler._store
    monkeypatch.setattr(
        StoreHandler, "_store", lambda self, name, group: stored(self, name, group) or 1 / (name != names[-1])
    )
    with pytest.raises(ZeroDivisionError):
        handler.finish()
    handler.undo()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, before)
    assert not any(hasattr(module, "quantization_scheme") for module in model.modules())
    assert not any("scale" in name for name, _ in model.named_parameters())


def test_experts_that_transformers_would_not_load_again_are_refused_before_a_weight_is_read(checkpoint, tmp_path):
    dense = load_model(checkpoint("qwen3_moe"))
    split_experts(dense)
    units = scheme_units(dense, W4)
    experts = [name for name in units if name.endswith("experts")]
    del units[experts[0]]
    modifier = SparsityProfileModifier(strategy=scheme_strategy(dense, units), levels=str(tmp_path / "nowhere"))
    with pytest.raises(RecipeError, match="wants all linears of the experts quantised or none"):
        prune_with_recipe(checkpoint("qwen3_moe"), [modifier], tmp_path / "out")


@pytest.mark.slow
def test_experts_in_one_scheme_beside_others_load_again_and_in_several_are_refused(checkpoint, database, tmp_path):
    dense = load_model(checkpoint("qwen3_moe"))
    split_experts(dense)
    units = {name: W4 if "experts" in name else W8 for name in scheme_units(dense, W4)}
    modifier = SparsityProfileModifier(strategy=scheme_strategy(dense, units), levels=database("qwen3_moe"))
    done = prune_with_recipe(checkpoint("qwen3_moe"), [modifier], tmp_path / "out")
    groups = json.loads((done.path / "config.json").read_text())["quantization_config"]["config_groups"].values()
    assert sorted(group["weights"]["num_bits"] for group in groups) == [4, 8]
    first = next(name for name in units if "experts" in name)
    several = scheme_strategy(dense, units | {first: W8})
    with pytest.raises(RecipeError, match="builds all experts of all blocks from one scheme"):
        prune_with_recipe(
            checkpoint("qwen3_moe"),
            [SparsityProfileModifier(strategy=several, levels=str(tmp_path / "nowhere"))],
            tmp_path / "again",
        )


@pytest.mark.slow
def test_a_database_of_another_model_or_without_the_scheme_is_refused(checkpoint, database, tmp_path):
    dense = load_model(checkpoint("llama"))
    folder = database()
    lacking = scheme_strategy(dense, scheme_units(dense, "W5A16:channel"))
    with pytest.raises(LevelsError, match="not in 'W5A16:channel'"):
        prune_with_recipe(
            checkpoint("llama"), [SparsityProfileModifier(strategy=lacking, levels=folder)], tmp_path / "out"
        )
    other = load_model(checkpoint("qwen3"))
    with pytest.raises(ModelMismatchError):
        prune_with_recipe(
            checkpoint("qwen3"),
            [SparsityProfileModifier(strategy=scheme_strategy(other, scheme_units(other, W4)), levels=folder)],
            tmp_path / "out",
        )
