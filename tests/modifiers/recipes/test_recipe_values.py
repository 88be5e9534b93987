"""Fields that the toolkit would run, import or write by, and numbers out of range: in YAML and in objects alike."""

from types import SimpleNamespace

import pytest
import yaml
from llmcompressor.modifiers.pruning import (
    MagnitudePruningModifier,
    REAPPruningModifier,
    SparseGPTModifier,
    WandaPruningModifier,
)
from llmcompressor.modifiers.pruning.helpers import PruningCreateSettings, PruningSchedulerFactory
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
from tiny import tiny_model
from torch import nn

from unicuco_plugin.errors import RecipeError
from unicuco_plugin.modifiers.recipe import build_recipe, check_recipe
from unicuco_plugin.modifiers.recipes.own_recipe import check_modifiers
from unicuco_plugin.modifiers.recipes.recipe_values import SCHEDULERS

MAGNITUDE = {"targets": ["re:.*weight"], "init_sparsity": 0.1, "final_sparsity": 0.5, "start": 0.0, "end": 1.0}
TYPES = [
    MagnitudePruningModifier, REAPPruningModifier, SparseGPTModifier, WandaPruningModifier, GPTQModifier,
    QuantizationModifier, SmoothQuantModifier,
]  # fmt: skip
BY_NAME = {kind.__name__: kind for kind in TYPES}
ARGS = {"type": "int", "num_bits": 8}
GROUPS = {"g": {"targets": ["Linear"], "weights": {**ARGS, "observer": "o.py:O"}}}


@pytest.fixture(scope="module")
def machine():
    """What a recipe says does not depend on where weights are."""


REFUSED = [
    (
        "MagnitudePruningModifier",
        MAGNITUDE | {"update_scheduler": "calc(index)"},
        "update_scheduler must be one of linear,",
    ),
    ("MagnitudePruningModifier", MAGNITUDE | {"update_scheduler": "calc(1"}, "update_scheduler must be one of linear,"),
    ("MagnitudePruningModifier", MAGNITUDE | {"update_scheduler": "Linear"}, "update_scheduler must be one of linear,"),
    (
        "MagnitudePruningModifier",
        MAGNITUDE | {"mask_structure": " calc(1)"},
        "mask_structure must not be an expression",
    ),
    ("MagnitudePruningModifier", MAGNITUDE | {"init_sparsity": -1}, "init_sparsity must be in [0, 1], got -1"),
    ("MagnitudePruningModifier", MAGNITUDE | {"final_sparsity": 2}, "final_sparsity must be in [0, 1], got 2"),
    ("MagnitudePruningModifier", MAGNITUDE | {"end": 0.0}, "start must be less than end, got 0.0 and 0.0"),
    ("MagnitudePruningModifier", MAGNITUDE | {"start": float("-inf")}, "start must be a finite number, got -inf"),
    (
        "MagnitudePruningModifier",
        MAGNITUDE | {"update_scheduler": "multi_step", "scheduler_args": {"steps": [[0, 0.1], [1, 5]]}},
        "scheduler_args.steps.1.1 must be in [0, 1], got 5",
    ),
    (
        "MagnitudePruningModifier",
        MAGNITUDE | {"scheduler_args": {"exponent": float("nan")}},
        "scheduler_args.exponent must",
    ),
    ("SparseGPTModifier", {"sparsity": -1}, "sparsity must be in [0, 1), got -1"),
    ("SparseGPTModifier", {"sparsity": 1}, "sparsity must be in [0, 1), got 1"),
    ("SparseGPTModifier", {"sparsity": [0.5, 1.5]}, "sparsity.1 must be in [0, 1), got 1.5"),
    ("SparseGPTModifier", {"sparsity": float("nan")}, "sparsity must be a finite number, got nan"),
    ("SparseGPTModifier", {"sparsity": 0.5, "dampening_frac": float("inf")}, "dampening_frac must be a finite number"),
    ("WandaPruningModifier", {"sparsity": 1.1}, "sparsity must be in [0, 1], got 1.1"),
    ("WandaPruningModifier", {"sparsity": "nan"}, "sparsity must be a finite number, got nan"),
    ("WandaPruningModifier", {"sparsity": 0.5, "targets": ["re:(("]}, "targets.0 is no regular expression: missing )"),
    (
        "WandaPruningModifier",
        {"sparsity": 0.5, "ignore": ["re:(a+)+$"]},
        "ignore.0 backtracks without end on module names",
    ),
    (
        "WandaPruningModifier",
        {"sparsity": 0.5, "targets": "re:" + "x" * 1001},
        "targets must have at most 1,000 characters",
    ),
    (
        "QuantizationModifier",
        {"scheme": "W8A8", "weight_observer": "o.py:O"},
        "weight_observer must not name a Python file",
    ),
    (
        "QuantizationModifier",
        {"scheme": "W8A8", "observer": {"input": "o.py:O"}},
        "observer.input must not name a Python",
    ),
    ("QuantizationModifier", {"config_groups": GROUPS}, "config_groups.g.weights.observer must not name a Python file"),
    (
        "GPTQModifier",
        {"scheme": "W4A16", "kv_cache_scheme": ARGS | {"observer": "o.py:O"}},
        "kv_cache_scheme.observer must",
    ),
    ("SmoothQuantModifier", {"mappings": [[["re:(("], "re:.*norm"]]}, "mappings.0.0.0 is no regular expression"),
    ("REAPPruningModifier", {"sparsity": 0.5, "ignore": ["(a+)+$"]}, "ignore.0 backtracks without end"),
]


@pytest.mark.parametrize(("kind", "fields", "message"), REFUSED)
def test_a_field_that_must_not_reach_the_toolkit_is_refused_in_a_text(kind, fields, message):
    text = yaml.safe_dump({"s_stage": {"s_modifiers": {kind: fields}}}, sort_keys=False)
    with pytest.raises(RecipeError) as caught:
        check_recipe(text)
    said = str(caught.value)
    assert f": {kind}: {message}" in said
    assert said.startswith("recipe, line ") and len(said) <= 300 and said.isprintable()


@pytest.mark.parametrize(("kind", "fields", "message"), REFUSED)
def test_a_field_that_must_not_reach_the_toolkit_is_refused_in_an_object(kind, fields, message):
    modifier = BY_NAME[kind](**fields)
    with pytest.raises(RecipeError) as caught:
        build_recipe([modifier])
    assert str(caught.value).startswith(f"recipe: {kind}: ")
    assert message.partition(", got ")[0] in str(caught.value)


def test_the_toolkit_sees_nothing_of_what_is_refused(tmp_path):
    report = tmp_path / "new" / "report.json"
    with pytest.raises(RecipeError, match="REAPPruningModifier: report_path must be left out"):
        check_recipe(f"s_stage:\n  s_modifiers:\n    REAPPruningModifier: {{sparsity: 0.5, report_path: {report}}}\n")
    # Only to validate the field the toolkit makes the folder.
    assert not report.parent.exists()


def test_the_toolkits_own_notes_are_no_fields():
    with pytest.raises(RecipeError, match="line 3: WandaPruningModifier: ended_ is the toolkit's own note"):
        check_recipe("s_stage:\n  s_modifiers:\n    WandaPruningModifier: {sparsity: 0.5, ended_: true}\n")


def test_the_schedulers_are_those_that_the_toolkit_registers():
    assert set(SCHEDULERS) == set(PruningSchedulerFactory.registry)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_registered_scheduler_is_allowed(scheduler):
    check_modifiers([MagnitudePruningModifier(**MAGNITUDE, update_scheduler=scheduler)])


def test_the_toolkit_still_evaluates_what_we_refuse():
    # Once this fails, docs/upstream-calc.md and the refusal can be looked at again.
    settings = PruningCreateSettings(0, 1, 1, 0.1, 0.5, {})
    run = PruningSchedulerFactory.create_scheduler("calc(end + 41)", settings)
    assert run(SimpleNamespace(current_index=0), None) == 42


@pytest.mark.parametrize(
    "modifier",
    [
        WandaPruningModifier(sparsity=1.0, mask_structure="2:4"),
        SparseGPTModifier(sparsity=[0.0, 0.999], targets=["a", "b"]),
        QuantizationModifier(scheme="W8A8", weight_observer="minmax", ignore=["re:.*lm_head"]),
        SmoothQuantModifier(mappings=[[["re:.*q_proj", "re:.*k_proj"], "re:.*input_layernorm"]]),
        MagnitudePruningModifier(**MAGNITUDE),
    ],
    ids=lambda modifier: type(modifier).__name__,
)
def test_what_recipes_need_passes(modifier):
    check_modifiers([modifier], tiny_model("llama"))


def test_a_pattern_is_tried_on_the_names_of_the_model_too():
    model = tiny_model("llama")
    model.add_module("very_" + "q" * 40, nn.Identity())
    modifier = WandaPruningModifier(sparsity=0.5, targets=[r"re:very_(q+)+$", "Linear"])
    check_modifiers([modifier])
    with pytest.raises(RecipeError, match=r"^recipe: WandaPruningModifier: targets\.0 backtracks without end"):
        check_modifiers([modifier], model)
