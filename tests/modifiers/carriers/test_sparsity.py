"""Sparsity strategies carried out by the toolkit's passes, on tiny models."""

import json

import pytest
import torch
import yaml
from depth_strategies import whole_block_strategy
from llmcompressor import oneshot
from llmcompressor.core import active_session
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from loguru import logger
from sparsity_strategies import linear_sizes, sparsity_strategy, uneven_units
from tiny import tiny_tokenizer

from unicuco_plugin.errors import CalibrationError, ExportError, ModelMismatchError, RecipeError, StrategyError
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.models.tensors.storage import kept_tensors
from unicuco_plugin.modifiers.carriers.plan_check import PlanCheck
from unicuco_plugin.modifiers.carriers.recount import recount
from unicuco_plugin.modifiers.export import oneshot as oneshots
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.modifiers.recipe import check_recipe
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.spaces.plan import plan_counts

HEAD = ["re:.*lm_head"]
ENGINES = {"sparsegpt": SparseGPTModifier, "wanda": WandaPruningModifier}
WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 16}  # 128 does not divide 32
W4A16 = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": WEIGHTS}}, "ignore": ["lm_head"]}


@pytest.fixture
def messages():
    """What the toolkit's logger is told, as (level, text)."""
    heard = []
    sink = logger.add(lambda message: heard.append((message.record["level"].name, message.record["message"])))
    yield heard
    logger.remove(sink)


@pytest.fixture
def dataset(calibration):
    import datasets

    return datasets.Dataset.from_dict({"input_ids": calibration.tolist(), "attention_mask": [[1] * 32] * 8})


@pytest.fixture
def run(dataset, tmp_path):
    """The toolkit's own oneshot, as someone calls it who does not know our command line."""

    def call(model, *modifiers, pipeline="independent"):
        tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
        options = {"dataset": dataset, "max_seq_length": 32, "num_calibration_samples": 8}
        oneshot(model=model, recipe=list(modifiers), tokenizer=tokenizer, pipeline=pipeline, **options)
        return model

    return call


def engine(name="sparsegpt", **fields):
    return ENGINES[name](**({"sparsity": 0.5, "ignore": HEAD} | fields))


def zeros_of(model):
    return {name: int((model.get_submodule(name).weight == 0).sum()) for name in linear_sizes(model)}


def assert_planned(model, strategy, name="sparsegpt", dense=None):
    """Every linear is as close to its plan as the issue asks; the others are bit-identical."""
    sizes = linear_sizes(model)
    plan = plan_counts(strategy.units, sizes)
    for linear, zeros in zeros_of(model).items():
        columns = model.get_submodule(linear).in_features
        bound = 1e-4 + 1 / sizes[linear] if name == "sparsegpt" else 1 / columns
        assert abs(zeros - plan.get(linear, 0)) / sizes[linear] <= bound, linear
        if dense is not None and linear not in plan:
            assert torch.equal(model.get_submodule(linear).weight, dense.get_submodule(linear).weight)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "phi3", "opt"])
def test_every_linear_of_a_saved_checkpoint_has_the_planned_zeros(family, name, checkpoint, calibration, tmp_path):
    dense = load_model(checkpoint(family))
    strategy = sparsity_strategy(dense)
    modifiers = [SparsityProfileModifier(strategy=strategy), engine(name)]
    done = prune_with_recipe(checkpoint(family), modifiers, tmp_path / "out", calibration=calibration)
    loaded = load_model(done.path)
    assert_planned(loaded, strategy, name, dense)
    assert torch.equal(loaded.lm_head.weight, dense.lm_head.weight)


@pytest.mark.slow
def test_experts_that_a_family_fuses_are_pruned_one_by_one(checkpoint, calibration, tmp_path):
    # Every expert has linears of its own while modifiers see the model.
    strategy = sparsity_strategy(load_model(checkpoint("qwen3_moe")), {"model.layers.0": 0.5})
    recipe = [SparsityProfileModifier(strategy=strategy), engine()]
    done = prune_with_recipe(checkpoint("qwen3_moe"), recipe, tmp_path / "out", calibration=calibration)
    experts = [row for row in done.achieved.linears if ".experts." in row.name]
    assert len(experts) == 4 * 3
    assert all(row.achieved == row.planned == row.weights // 2 for row in experts)
    first, second, *_ = load_model(done.path).model.layers
    for name in ("gate_up_proj", "down_proj"):
        assert (getattr(first.mlp.experts, name) == 0).float().mean() == 0.5
        assert getattr(second.mlp.experts, name).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("pipeline", ["independent", "sequential", "basic"])
def test_every_pipeline_that_calibrates_carries_the_plan_out(pipeline, name, checkpoint, run):
    dense, model = load_model(checkpoint("llama")), load_model(checkpoint("llama"))
    strategy = sparsity_strategy(model)
    run(model, SparsityProfileModifier(strategy=strategy), engine(name), pipeline=pipeline)
    assert_planned(model, strategy, name, dense)


@pytest.mark.parametrize("name", ENGINES)
def test_the_pass_gets_the_linears_that_lose_something_in_the_models_order(name, checkpoint, run):
    model = load_model(checkpoint("llama"))
    follower = engine(name)
    strategy = sparsity_strategy(model)
    run(model, SparsityProfileModifier(strategy=strategy), follower)
    assert follower.targets == list(plan_counts(strategy.units, linear_sizes(model)))
    assert len(follower.sparsity) == len(follower.targets)
    assert all(isinstance(share, float) and 0.0 < share < 1.0 for share in follower.sparsity)


@pytest.mark.slow
def test_a_whole_unit_can_go(checkpoint, run):
    model = load_model(checkpoint("llama"))
    strategy = sparsity_strategy(model, {"model.layers.2.mlp": 1.0})
    for name in ENGINES:
        pruned = run(load_model(checkpoint("llama")), SparsityProfileModifier(strategy=strategy), engine(name))
        assert all(
            not pruned.get_submodule(linear).weight.any() for linear in plan_counts(strategy.units, linear_sizes(model))
        )
        active_session().reset()


def test_a_plan_below_what_the_pass_can_make_leaves_the_linear_alone(checkpoint, run):
    dense, model = load_model(checkpoint("llama")), load_model(checkpoint("llama"))
    strategy = sparsity_strategy(model, {"model.layers.0": 0.5, "model.layers.1.self_attn.q_proj": 0.01})
    run(model, SparsityProfileModifier(strategy=strategy), engine("wanda"))  # 10 weights, at least 32 or none
    name = "model.layers.1.self_attn.q_proj"
    assert torch.equal(model.get_submodule(name).weight, dense.get_submodule(name).weight)


@pytest.mark.slow
def test_an_ignored_head_stays_dense_and_no_warning_is_heard(checkpoint, run, messages, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # the toolkit warns once in a process that it does this
    dense, model = load_model(checkpoint("qwen3")), load_model(checkpoint("qwen3"))
    strategy = recount(model, sparsity_strategy(model))  # whose sizes are made up
    messages.clear()
    run(model, SparsityProfileModifier(strategy=strategy), engine())
    assert torch.equal(model.lm_head.weight, dense.lm_head.weight)
    assert [
        text for level, text in messages if level == "WARNING" and "CPU" not in text and "pipeline" not in text
    ] == []


@pytest.mark.parametrize(
    "pattern", ["re:.*q_proj$", "re:.*q_proj", "model.layers.0.self_attn.q_proj", "Linear"], ids=str
)
def test_an_ignore_that_hits_a_planned_linear_is_refused(pattern, checkpoint, run):
    model = load_model(checkpoint("llama"))
    with pytest.raises(
        RecipeError, match=r"matches linears that the strategy names: model\.layers\.0\.self_attn\.q_proj"
    ):
        run(model, SparsityProfileModifier(strategy=sparsity_strategy(model)), engine(ignore=[*HEAD, pattern]))


@pytest.mark.slow
def test_an_ignore_that_hits_only_what_stays_dense_is_fine(checkpoint, run):
    model = load_model(checkpoint("llama"))
    strategy = sparsity_strategy(model)
    run(model, SparsityProfileModifier(strategy=strategy), engine(ignore=[*HEAD, r"re:.*layers\.2\."]))
    assert_planned(model, strategy)


@pytest.mark.parametrize(
    ("followers", "message"),
    [
        ([], "needs SparseGPTModifier or WandaPruningModifier after SparsityProfileModifier.*; nothing follows"),
        (
            [QuantizationModifier(targets=["Linear"], scheme="FP8_DYNAMIC", ignore=["lm_head"])],
            "; QuantizationModifier follows",
        ),
        ([engine(mask_structure="2:4")], "SparseGPTModifier: mask_structure must be '0:0' .*, got '2:4'"),
        ([engine("wanda", mask_structure="2:4")], "WandaPruningModifier: mask_structure must be '0:0'"),
        (
            [engine(sparsity_profile="owl", owl_m=5, owl_lmbda=0.05)],
            "SparseGPTModifier: sparsity_profile must be left out to be filled by a strategy, got 'owl'",
        ),
    ],
    ids=["none", "quantisation", "2:4", "wanda 2:4", "owl"],
)
def test_a_recipe_that_cannot_carry_it_out_is_refused(followers, message, checkpoint, run):
    model = load_model(checkpoint("llama"))
    modifier = SparsityProfileModifier(strategy=sparsity_strategy(model))
    with pytest.raises(RecipeError, match=message):
        modifier.check_recipe([modifier, *followers])
    with pytest.raises(RecipeError, match=message):
        run(model, modifier, *followers)


def test_a_pass_before_the_modifier_does_not_count(checkpoint, run):
    model = load_model(checkpoint("llama"))
    with pytest.raises(RecipeError, match="nothing follows"):
        run(model, engine(), SparsityProfileModifier(strategy=sparsity_strategy(model)))


def test_two_of_them_are_refused_before_a_weight_is_read(checkpoint, calibration, tmp_path, monkeypatch):
    modifier = SparsityProfileModifier(strategy=sparsity_strategy(load_model(checkpoint("llama"))))
    monkeypatch.setattr(oneshots, "load_model", None)
    with pytest.raises(RecipeError, match="one SparsityProfileModifier per recipe"):
        prune_with_recipe(
            checkpoint("llama"), [modifier, modifier, engine()], tmp_path / "out", calibration=calibration
        )


def test_an_empty_plan_is_refused(checkpoint, run):
    model = load_model(checkpoint("llama"))
    with pytest.raises(RecipeError, match="the strategy zeroes no weight of the 42 linears"):
        run(model, SparsityProfileModifier(strategy=sparsity_strategy(model, {})), engine())


def test_units_that_the_model_lacks_are_refused(checkpoint, run):
    model = load_model(checkpoint("llama"))
    strategy = sparsity_strategy(model).model_copy(update={"units": {"model.layers.9": 0.5}})
    with pytest.raises(StrategyError, match=r"model\.layers\.9 cover none"):
        run(model, SparsityProfileModifier(strategy=strategy), engine())


def test_a_strategy_for_another_model_is_refused(checkpoint, run):
    strategy = sparsity_strategy(load_model(checkpoint("llama")))
    with pytest.raises(ModelMismatchError, match="whose structure this model does not have"):
        run(load_model(checkpoint("mistral")), SparsityProfileModifier(strategy=strategy), engine())


@pytest.mark.parametrize("name", ENGINES)
def test_a_pass_without_text_is_refused_before_the_toolkit_starts(name, checkpoint):
    model = load_model(checkpoint("llama"))
    recipe = [SparsityProfileModifier(strategy=sparsity_strategy(model)), engine(name)]
    with pytest.raises(RecipeError, match="reads calibration text, got none; give oneshot a dataset"):
        oneshot(model=model, recipe=recipe)
    assert sum(zeros_of(model).values()) == 0


@pytest.mark.parametrize("make", [sparsity_strategy, whole_block_strategy])
def test_a_dataset_of_messages_is_refused_and_told_how_to_become_text(make, checkpoint, tmp_path):
    import datasets

    said = [{"role": "user", "content": "w1 w2 w3"}]
    model = load_model(checkpoint("llama"))
    data = datasets.Dataset.from_dict({"messages": [said] * 8})
    # Shuffled, PyTorch's sampler is the first to stumble, before any modifier is asked.
    options = {"dataset": data, "max_seq_length": 8, "shuffle_calibration_samples": False}
    with pytest.raises(CalibrationError, match="got none; llm-compressor reads columns text or input_ids alone"):
        oneshot(
            model=model,
            recipe=[SparsityProfileModifier(strategy=make(model)), engine()],
            tokenizer=tiny_tokenizer(tmp_path),
            **options,
        )
    assert sum(zeros_of(model).values()) == 0


@pytest.mark.parametrize("name", ENGINES)
def test_a_pipeline_without_data_is_found_out(name, checkpoint, calibration, run, tmp_path):
    model = load_model(checkpoint("llama"))
    modifiers = [SparsityProfileModifier(strategy=sparsity_strategy(model)), engine(name)]
    with pytest.raises(
        ExportError, match=r"zeroed none of what the strategy plans for 26 linears: .*pipeline 'datafree'"
    ):
        run(model, *modifiers, pipeline="datafree")
    active_session().reset()
    with pytest.raises(RecipeError, match="pipeline must not be 'datafree'"):
        prune_with_recipe(
            checkpoint("llama"), modifiers, tmp_path / "out", calibration=calibration, pipeline="datafree"
        )


def test_a_pass_that_does_something_else_is_found_out(checkpoint, run, monkeypatch):
    model = load_model(checkpoint("llama"))
    compress = WandaPruningModifier.compress_modules

    def overdo(self):
        self._module_sparsities = {module: share + 0.1 for module, share in self._module_sparsities.items()}
        compress(self)

    monkeypatch.setattr(WandaPruningModifier, "compress_modules", overdo)
    with pytest.raises(ExportError, match=r"WandaPruningModifier did not carry out the plan: model.* has .* expected"):
        run(model, SparsityProfileModifier(strategy=sparsity_strategy(model)), engine("wanda"))


def test_a_linear_zeroed_without_a_plan_is_found_out(checkpoint, run, monkeypatch):
    model = load_model(checkpoint("llama"))
    compress = WandaPruningModifier.compress_modules

    def overdo(self):
        with kept_tensors():
            model.model.layers[2].mlp.up_proj.weight.data[0] = 0
        compress(self)

    monkeypatch.setattr(WandaPruningModifier, "compress_modules", overdo)
    with pytest.raises(
        ExportError, match=r"model\.layers\.2\.mlp\.up_proj has 32 zeros of 1,536 weights, expected 0 ±"
    ):
        run(model, SparsityProfileModifier(strategy=sparsity_strategy(model)), engine("wanda"))


def test_after_a_failure_the_pass_has_its_own_fields_again(checkpoint, run):
    model = load_model(checkpoint("llama"))
    follower = engine("wanda", sparsity=0.4)
    with pytest.raises(ExportError):
        run(model, SparsityProfileModifier(strategy=sparsity_strategy(model)), follower, pipeline="datafree")
    active_session().reset()
    assert (follower.sparsity, follower.targets) == (0.4, ["Linear"])


@pytest.mark.slow
def test_the_log_says_what_is_replaced_and_how_well_the_plan_was_met(checkpoint, run, messages):
    model = load_model(checkpoint("llama"))
    run(model, SparsityProfileModifier(strategy=sparsity_strategy(model)), engine())
    told = [text for level, text in messages if level == "INFO" and text.startswith("SparsityProfileModifier: ")]
    assert len(told) == 2
    assert "its own sparsity (0.5) and targets (['Linear']) are replaced" in told[0]
    assert "SparseGPTModifier on 26 linears: planned " in told[1]
    assert "; worst linear model.layers." in told[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
@torch.no_grad()
def test_the_recipe_of_a_checkpoint_replays_to_the_same_weights(name, checkpoint, calibration, tmp_path):
    dense = checkpoint("llama")
    strategy = sparsity_strategy(load_model(dense))
    modifiers = [SparsityProfileModifier(strategy=strategy), engine(name)]
    first = prune_with_recipe(dense, modifiers, tmp_path / "first", calibration=calibration)
    recipe = first.path / "recipe.yaml"
    [stage] = yaml.safe_load(recipe.read_text()).values()
    assert list(stage["default_modifiers"]) == ["SparsityProfileModifier", type(modifiers[1]).__name__]
    second = prune_with_recipe(dense, recipe, tmp_path / "second", calibration=calibration)
    assert (second.path / "model.safetensors").read_bytes() == (first.path / "model.safetensors").read_bytes()
    assert (second.path / "recipe.yaml").read_text() == recipe.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("pipeline", ["independent", "sequential", "basic"])
def test_blocks_drop_and_the_rest_is_sparsified_in_one_recipe(pipeline, name, checkpoint, calibration, tmp_path):
    dense = load_model(checkpoint("llama"))
    sparsity, depth = sparsity_strategy(dense), whole_block_strategy(dense, (1, 2))
    recipe = [SparsityProfileModifier(strategy=[sparsity, depth]), engine(name)]
    done = prune_with_recipe(checkpoint("llama"), recipe, tmp_path / "out", calibration=calibration, pipeline=pipeline)
    model = load_model(done.path)
    assert model.config.num_hidden_layers == 4
    plan = plan_counts(sparsity.units, linear_sizes(dense))
    zeros = zeros_of(model)
    for new, old in enumerate((0, 3, 4, 5)):
        for linear, size in linear_sizes(model).items():
            if not linear.startswith(f"model.layers.{new}."):
                continue
            planned = plan.get(linear.replace(f"layers.{new}.", f"layers.{old}."), 0)
            assert abs(zeros[linear] - planned) <= (0.5 if name == "sparsegpt" else size / 64) + 0.5
    written = json.loads((done.path / "sparsity.json").read_text())
    names = {row["name"]: row["exported_as"] for row in written["linears"]}
    assert names["model.layers.3.self_attn.q_proj"] == "model.layers.1.self_attn.q_proj"
    assert not any(name.startswith(("model.layers.1.", "model.layers.2.")) for name in names)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [W4A16, *({"targets": ["Linear"], "scheme": scheme, "ignore": ["lm_head"]} for scheme in ("FP8_DYNAMIC", "W8A8"))],
    ids=["w4a16", "fp8_dynamic", "w8a8"],
)
@pytest.mark.parametrize("pipeline", ["independent", "sequential"])
def test_zeros_survive_quantisation_in_one_recipe(fields, pipeline, checkpoint, calibration, tmp_path):
    dense = load_model(checkpoint("llama"))
    strategy = sparsity_strategy(dense)
    recipe = [SparsityProfileModifier(strategy=strategy), engine(), QuantizationModifier(**fields)]
    done = prune_with_recipe(checkpoint("llama"), recipe, tmp_path / "out", calibration=calibration, pipeline=pipeline)
    weights = decompressed(done.path)
    plan = plan_counts(strategy.units, linear_sizes(dense))
    for linear in plan:
        # Rounding adds zeros, and takes none away: what the pass zeroed is zero still.
        assert int((weights[linear] == 0).sum()) >= plan[linear] - 1, linear
    written = json.loads((done.path / "sparsity.json").read_text())
    assert written["exported"] == written["achieved"]


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["independent", "sequential"])
def test_gptq_after_sparse_gpt_warns_and_fails_nothing(pipeline, checkpoint, calibration, tmp_path, capsys):
    strategy = sparsity_strategy(load_model(checkpoint("llama")))
    recipe = [SparsityProfileModifier(strategy=strategy), engine(), GPTQModifier(**W4A16)]
    done = prune_with_recipe(checkpoint("llama"), recipe, tmp_path / "out", calibration=calibration, pipeline=pipeline)
    written = json.loads((done.path / "sparsity.json").read_text())
    assert abs(written["achieved"] - written["planned"]) <= len(written["linears"])
    assert written["exported"] < written["achieved"]
    assert [type(modifier) for modifier in check_recipe(done.path / "recipe.yaml").modifiers] == [
        SparsityProfileModifier, SparseGPTModifier, GPTQModifier
    ]  # fmt: skip
    told = capsys.readouterr().err
    assert "GPTQModifier after SparseGPTModifier fills zeros again" in told
    assert "SparsityProfileModifier: a later modifier filled" in told


@pytest.mark.slow
def test_the_check_is_gone_from_the_recipe_after_a_run(checkpoint, run):
    model = load_model(checkpoint("llama"))
    run(model, SparsityProfileModifier(strategy=sparsity_strategy(model, uneven_units(model))), engine())
    assert not any(isinstance(modifier, PlanCheck) for modifier in active_session().lifecycle.recipe.modifiers)


@torch.no_grad()
def decompressed(folder):
    """Weights of a quantised checkpoint's linears as stock Transformers runs them."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    model(torch.arange(3, 20)[None])
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "quantization_scheme"):
            from compressed_tensors.compressors import decompress_module

            if not hasattr(module, "weight") or module.weight.dtype not in (torch.float32, torch.bfloat16):
                decompress_module(module)
            found[name] = module.weight
    return found
