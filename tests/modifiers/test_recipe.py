"""Recipes that the toolkit would accept and then silently not do."""

import re
from pathlib import Path

import pytest
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from llmcompressor.modifiers.quantization import QuantizationModifier

from unicuco_plugin.errors import RecipeError
from unicuco_plugin.modifiers.carriers.follower import find_follower
from unicuco_plugin.modifiers.recipe import check_pipeline, check_recipe
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"
# Others ask a profile of one's own.
OF_THE_SMALL_MODEL = sorted(path for path in RECIPES.glob("*.yaml") if "profile: profiles/" not in path.read_text())
# Every recipe that a page of the documentation shows.
SHOWN = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf8"), re.DOTALL))
    if "_modifiers:" in block
]

GOOD = """
pruning_stage:
  pruning_modifiers:
    SparsityProfileModifier:
      profile: some-profile
      request: {sparsity: 0.25}
    WandaPruningModifier: {sparsity: 0.5, mask_structure: "2:4"}
"""


@pytest.mark.parametrize("as_file", [True, False])
def test_a_good_recipe_is_built_from_a_file_or_a_text(as_file, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(GOOD, encoding="utf8")
    first, second = check_recipe(path if as_file else GOOD).modifiers
    assert isinstance(first, SparsityProfileModifier)
    assert first.request == {"sparsity": 0.25}
    assert isinstance(second, WandaPruningModifier)


def test_a_recipe_in_json_is_built_from_what_was_checked():
    text = '{"a_stage": {"b_modifiers": {"WandaPruningModifier": {"sparsity": 5e-1, "ignore": ["re:.*lm_head"]}}}}'
    [modifier] = check_recipe(text).modifiers
    assert (modifier.sparsity, modifier.ignore) == (0.5, ["re:.*lm_head"])


@pytest.mark.slow
@pytest.mark.parametrize("path", OF_THE_SMALL_MODEL, ids=lambda path: path.name)
def test_the_recipes_we_ship_are_good_and_need_data_only_to_change_weights_or_to_rank_parts(path):
    modifiers = check_recipe(path).modifiers
    assert isinstance(modifiers[0], SparsityProfileModifier)
    # A profile of head groups and neurons knows which parts go; a peer has to look.
    hungry = "sparsity" in path.name or path.name == "bits.yaml" or modifiers[0].peer is not None
    check_pipeline(modifiers, "independent", with_data=hungry)
    if "sparsity" in path.name:
        assert find_follower(modifiers[1:]).ignore == ["re:.*lm_head"]
    if hungry:
        with pytest.raises(RecipeError, match="needs calibration text, got none"):
            check_pipeline(modifiers, "independent", with_data=False)


@pytest.mark.parametrize("path", OF_THE_SMALL_MODEL, ids=lambda path: path.name)
def test_the_recipes_we_ship_serve_the_weights_on_the_hub_that_they_name(path):
    # The packaged profiles are of weights that were unpacked from 4 bits; without this a model from the hub is refused.
    modifier = check_recipe(path).modifiers[0]
    assert "--model HuggingFaceTB/SmolLM2-135M-Instruct" in path.read_text(encoding="utf8")
    assert modifier.accept_other_weights == (modifier.peer is None)


@pytest.mark.parametrize("block", SHOWN)
def test_the_recipes_that_the_documentation_shows_are_good(block):
    # The toolkit builds every modifier; profiles that a page names by a path are not there.
    assert isinstance(check_recipe(block).modifiers[0], SparsityProfileModifier)


def test_the_documentation_shows_recipes():
    assert len(SHOWN) >= 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "recipe: the recipe is empty"),
        ("# only a comment\n", "recipe: the recipe is empty"),
        ("null\n", "recipe: the recipe is empty"),
        ("{}\n", "recipe: the recipe has no modifier"),
        ("- pruning_stage\n- b\n", "line 1: a recipe is a mapping of stages"),
        ("a_stage: [\n", "line 2: "),
        ("pruning:\n  a_modifiers: {W: {}}\n", "line 1: 'pruning' would be skipped: .* must end in _stage"),
        ("a_stage:\n  pruning: {W: {}}\n", "line 2: 'pruning' would be skipped: .* must end in _modifiers"),
        ("a_stage:\n", "'a_stage' is empty and would be skipped"),
        ("a_stage:\n  b_modifiers:\n", "line 2: 'b_modifiers' is empty and would be skipped"),
        ("a_stage:\n  b_modifiers: {}\n", "line 2: 'b_modifiers' is empty and would be skipped"),
        ("a_stage:\n  b_modifiers:\n    WandaPruningModifier:\n", "line 3: WandaPruningModifier has no body"),
        ("a_stage:\n  b_modifiers:\n    WandaPruningModifier: 3\n", "line 3: WandaPruningModifier has no body"),
        (
            "a_stage:\n  b_modifiers:\n    W: {}\n    V: {}\n    W: {}\n",
            "line 5: 'W' stands here and in line 3, and the last would win; put the second one into a group of its own",
        ),
        ("a_stage: {b_modifiers: {W: {}}}\na_stage: {b_modifiers: {W: {}}}\n", "line 2: 'a_stage' stands here and"),
        ("a_stage:\n  b_modifiers:\n    W:\n      sparsity: 0.5\n      sparsity: 0.6\n", "line 5: 'sparsity' stands"),
        (
            "a_stage:\n  b_modifiers:\n    W:\n      mask_structure: 2:4\n",
            "line 4: 2:4 without quotes is the number 124 in YAML; write '2:4'",
        ),
        ("a_stage:\n  b_modifiers:\n    NoSuchModifier: {a: 1}\n", "No modifier of type 'NoSuchModifier' found"),
        ("a_stage:\n  b_modifiers:\n    WandaPruningModifier: {sparsty: 1}\n", "sparsty"),
        ("a_stage:\n  b_modifiers:\n    SparsityProfileModifier: {}\n", "give exactly one of profile, strategy"),
    ],
)
def test_what_the_toolkit_would_misread_is_refused_with_its_line(text, message):
    with pytest.raises(RecipeError, match=message):
        check_recipe(text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"nothing\.yaml cannot be read"):
        check_recipe(tmp_path / "nothing.yaml")


def test_a_file_is_named_with_the_line(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("pruning: {}\n", encoding="utf8")
    with pytest.raises(RecipeError, match=r"recipe\.yaml, line 1: 'pruning' would be skipped"):
        check_recipe(path)


def test_datafree_is_refused_for_a_modifier_that_needs_data():
    with pytest.raises(RecipeError, match="pipeline must not be 'datafree' with SparseGPTModifier"):
        check_pipeline([SparseGPTModifier(sparsity=0.5)], "datafree", with_data=True)


def test_a_modifier_that_needs_data_is_refused_without():
    with pytest.raises(RecipeError, match="SparseGPTModifier needs calibration text, got none"):
        check_pipeline([SparseGPTModifier(sparsity=0.5)], "independent", with_data=False)


@pytest.mark.parametrize("pipeline", ["independent", "datafree", "sequential", "basic"])
def test_modifiers_that_need_no_data_run_under_every_pipeline(pipeline):
    modifiers: list[Modifier] = [QuantizationModifier(targets=["Linear"], scheme="FP8_DYNAMIC")]
    check_pipeline(modifiers, pipeline, with_data=False)


def test_a_recipe_without_modifiers_is_refused():
    with pytest.raises(RecipeError, match="the recipe has no modifier"):
        check_pipeline([], "independent", with_data=False)
