"""The recipe that a checkpoint carries: ours alone, whole, in order, and such that it replays."""

import pytest
import torch
import yaml
from compressed_tensors.quantization import ActivationOrdering
from llmcompressor import oneshot
from llmcompressor.core import active_session
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.factory import ModifierFactory
from llmcompressor.modifiers.pruning import MagnitudePruningModifier, SparseGPTModifier, WandaPruningModifier
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

from unicuco_plugin.errors import RecipeError
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.loading import load_model, load_tokenizer
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.modifiers.recipe import build_recipe, check_recipe
from unicuco_plugin.modifiers.recipes.own_recipe import OwnRecipe
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier

STRANGERS = {
    "calc": "stranger_stage:\n  stranger_modifiers:\n    MagnitudePruningModifier: {update_scheduler: calc(1)}\n",
    "broken": "stranger: [\n",
    "empty": "",
    "bomb": "a0: &a0 [stranger]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)),
    "bytes": "\udcff",
}


QUANTISED = {"targets": ["Linear"], "scheme": "W4A16", "ignore": ["lm_head"]}
# What a modifier cannot do without; all others are built with no field at all.
NEEDS = {
    "AutoRoundModifier": QUANTISED,
    "ConstantPruningModifier": {"targets": ["Linear"]},
    "GPTQModifier": QUANTISED,
    "MagnitudePruningModifier": {
        "targets": ["Linear"], "init_sparsity": 0.0, "final_sparsity": 0.5, "start": 0, "end": 1,
        "update_scheduler": "linear",
    },
    "QuantizationModifier": QUANTISED,
    "REAPPruningModifier": {"sparsity": 0.5},
    "SparseGPTModifier": {"sparsity": 0.5, "sequential_update": True},
    "WandaPruningModifier": {"sparsity": 0.5, "sequential_update": True},
}  # fmt: skip


def toolkit_modifiers():
    """Every class that the toolkit itself registers, by the name that a recipe uses; not its common base."""
    ModifierFactory.refresh()
    return {name: kind for name, kind in ModifierFactory._main_registry.items() if kind is not Modifier}


@pytest.fixture
def beside(checkpoint, tmp_path):
    """A dense model with a recipe of a stranger's beside it."""

    def save(kind):
        load_model(checkpoint("llama")).save_pretrained(tmp_path / "dense")
        load_tokenizer(checkpoint("llama")).save_pretrained(tmp_path / "dense")
        path = tmp_path / "dense" / "recipe.yaml"
        path.write_text(STRANGERS[kind], encoding="utf8", errors="surrogateescape")
        return tmp_path / "dense"

    return save


@pytest.mark.slow
@pytest.mark.parametrize("kind", STRANGERS)
def test_a_recipe_beside_the_model_is_neither_read_nor_exported(kind, beside, depth_strategy, tmp_path):
    dense = beside(kind)
    modifier = SparsityProfileModifier(strategy=depth_strategy(load_model(dense)))
    done = prune_with_recipe(dense, modifier, tmp_path / "out")
    text = (done.path / "recipe.yaml").read_text(encoding="utf8")
    [replayed] = check_recipe(text).modifiers
    assert replayed.resolve() == done.strategies
    assert "stranger" not in text and "stranger" not in (done.path / "README.md").read_text(encoding="utf8")
    again = prune_with_recipe(dense, done.path / "recipe.yaml", tmp_path / "again")
    assert fingerprint(load_model(again.path)) == fingerprint(load_model(done.path))


def test_neither_is_it_where_the_toolkit_itself_saves(beside, depth_strategy, tmp_path):
    dense = beside("broken")
    model = load_model(dense)
    modifier = SparsityProfileModifier(strategy=depth_strategy(model))
    oneshot(model=model, recipe=[modifier], output_dir=str(tmp_path / "out"), tokenizer=load_tokenizer(dense))
    [replayed] = check_recipe(tmp_path / "out" / "recipe.yaml").modifiers
    assert replayed.resolve() == modifier.resolve()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            MagnitudePruningModifier(
                targets=["Linear"], init_sparsity=0, final_sparsity=0.5, start=0, end=1, update_scheduler="calc(1)"
            ),
            r"^recipe: MagnitudePruningModifier: update_scheduler must be one of linear, .*, got 'calc\(1\)'$",
        ),
        (
            QuantizationModifier(scheme="W8A8", weight_observer="o.py:O"),
            r"^recipe: QuantizationModifier: weight_observer must not name a Python file, .*, got 'o\.py:O'$",
        ),
        (
            WandaPruningModifier(sparsity=0.5, targets=["re:(a+)+$"]),
            r"^recipe: WandaPruningModifier: targets\.0 backtracks without end on module names",
        ),
    ],
    ids=["calc", "observer", "pattern"],
)
def test_the_toolkits_own_oneshot_is_stopped_before_a_later_modifier_runs(
    other, message, checkpoint, depth_strategy, calibration
):
    model = load_model(checkpoint("llama"))
    before = fingerprint(model)
    with pytest.raises(RecipeError, match=message):
        oneshot(
            model=model,
            recipe=[SparsityProfileModifier(strategy=depth_strategy(model)), other],
            tokenizer=load_tokenizer(checkpoint("llama")),
        )
    assert active_session().lifecycle.recipe.modifiers[1].initialized_ is False
    assert fingerprint(model) == before


def test_our_modifier_refuses_the_evaluated_scheduler_of_another(checkpoint, depth_strategy):
    modifier = SparsityProfileModifier(strategy=depth_strategy(load_model(checkpoint("llama"))))
    other = MagnitudePruningModifier(
        targets=["Linear"], init_sparsity=0, final_sparsity=0.5, update_scheduler="calc(1)"
    )
    with pytest.raises(RecipeError, match=r"update_scheduler must be one of .*, got 'calc\(1\)'"):
        modifier.check_recipe([modifier, other])


def content(modifier):
    """What a modifier says that is its recipe's, not its state's."""
    left_out = ("group", "offload_device")
    return {name: v for name, v in modifier.model_dump().items() if name not in left_out and name[-1] != "_"}


@pytest.mark.filterwarnings("ignore:.* is deprecated and will be removed:DeprecationWarning")  # of the toolkit's own
@pytest.mark.parametrize("name", sorted(toolkit_modifiers()))
def test_a_recipe_reads_back_as_written_for_every_modifier_of_the_toolkit(name):
    # The toolkit wants a quantiser behind AWQ, and behind nothing else.
    behind = [QuantizationModifier(**QUANTISED)] if name == "AWQModifier" else []
    written = build_recipe([toolkit_modifiers()[name](**NEEDS.get(name, {})), *behind])
    text = written.yaml()
    assert "!!" not in text
    read = check_recipe(text)
    assert [type(modifier) for modifier in read.modifiers] == [type(modifier) for modifier in written.modifiers]
    assert list(map(content, read.modifiers)) == list(map(content, written.modifiers))
    assert read.yaml() == text


@pytest.mark.parametrize("device", [torch.device("cpu"), None], ids=str)
def test_where_a_modifier_keeps_what_it_remembers_is_no_part_of_a_recipe(device):
    text = build_recipe([AWQModifier(offload_device=device), QuantizationModifier(**QUANTISED)]).yaml()
    assert "offload_device" not in text


def test_the_text_holds_every_modifier_in_its_order():
    first, second = WandaPruningModifier(sparsity=0.1, group="a"), WandaPruningModifier(sparsity=0.2, group="a")
    third, fourth = SparseGPTModifier(sparsity=0.3, group="b"), QuantizationModifier(scheme="W8A8", group="a")
    text = build_recipe([first, second, third, fourth]).yaml()
    assert list(yaml.safe_load(text)["default_stage"]) == [
        "a_modifiers", "a_2_modifiers", "b_modifiers", "a_3_modifiers",
    ]  # fmt: skip
    read = check_recipe(text)
    assert [type(modifier) for modifier in read.modifiers] == [type(m) for m in (first, second, third, fourth)]
    assert [modifier.sparsity for modifier in read.modifiers[:3]] == [0.1, 0.2, 0.3]
    # What is read back is written back.
    assert check_recipe(read.yaml()).yaml() == read.yaml()


def test_members_of_enumerations_and_tuples_become_plain_words_and_lists():
    mappings = [(["re:.*q_proj"], "re:.*input_layernorm")]
    text = build_recipe(
        [SmoothQuantModifier(mappings=mappings), GPTQModifier(scheme="W4A16", actorder=ActivationOrdering.GROUP)]
    ).yaml()
    assert "!!" not in text
    smooth, gptq = check_recipe(text).modifiers
    assert gptq.actorder == ActivationOrdering.GROUP
    assert smooth.mappings == [[["re:.*q_proj"], "re:.*input_layernorm"]]


def test_what_no_recipe_can_hold_is_refused_before_anything_runs():
    modifier = SmoothQuantModifier(calibration_function=print)
    with pytest.raises(RecipeError, match=r"^recipe: SmoothQuantModifier: calibration_function must be a plain value"):
        build_recipe([modifier])
    with pytest.raises(RecipeError, match=r"^recipe: modifiers must be a list of Modifier instances$"):
        build_recipe(["calc(1)"])


def test_another_recipes_file_is_not_even_opened(tmp_path):
    recipe = OwnRecipe.of(build_recipe([WandaPruningModifier(sparsity=0.5)]))
    path = tmp_path / "recipe.yaml"
    text = recipe.yaml(file_path=str(path), existing_recipe_path="/no/such/file")
    assert path.read_text(encoding="utf8") == text == recipe.yaml()
