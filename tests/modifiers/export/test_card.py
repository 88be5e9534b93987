"""What the model card says."""

import pytest
import yaml
from depth_strategies import whole_block_strategy
from hostile_names import NAMES
from tiny import tiny_model

from unicuco_plugin.modifiers.export.card import write_card
from unicuco_plugin.modifiers.export.divergence_note import find_divergence_note


@pytest.fixture(scope="module")
def strategy(machine):
    return whole_block_strategy(tiny_model("llama"))


def front_matter(card):
    return yaml.safe_load(card.split("---")[1])


def test_it_says_what_was_removed_by_which_request_and_with_what(strategy):
    card = write_card("org/model", (strategy,), 1234567, "a_stage: {}\n")
    assert front_matter(card)["base_model"] == "org/model"
    assert "Parameters: 1,234,567." in card
    assert "Request: sparsity = 0.3 (space `depth`)." in card
    assert "- `model.layers.1`\n- `model.layers.3`" in card
    assert "```yaml\na_stage: {}\n```" in card
    for package in ("unicuco-plugin", "llmcompressor", "transformers", "torch"):
        assert f"| {package} | " in card


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"measured": True}, "(measured on held-out calibration windows)"),
        ({"measured": False}, "(predicted, not measured)"),
        ({"measured": False, "carried_over": True}, "(carried over: found on other weights of the same structure"),
    ],
)
def test_it_says_how_the_divergence_is_known(strategy, fields, words):
    known = strategy.model_copy(update={"divergence": strategy.divergence.model_copy(update=fields)})
    card = write_card("org/model", (known,), 1, "")
    assert f"0.1000 nats per token, 90 % interval 0.0500 to 0.2000 {words}" in card


def test_a_local_folder_is_named_without_its_path_and_is_no_model_of_the_hub():
    card = write_card("/home/someone/models/llama", (), 1, "")
    assert "base_model" not in front_matter(card)
    assert "Base model: `llama`." in card
    assert "/home/someone" not in card


def test_shares_of_many_units_are_a_table_and_the_file_is_said_not_to_shrink(strategy):
    names = [f"model.layers.{block}.{part}" for block in range(30) for part in ("self_attn.q_proj", "mlp.up_proj")]
    units = {name: (index + 1) / 100 for index, name in enumerate(names) if index != 1}
    zeroed = strategy.model_copy(update={"space": "sparsity", "units": units, "sparsity": 0.5})
    card = write_card("org/model", (zeroed,), 1, "")
    assert (
        "base model:\n\n| block | self_attn.q_proj | mlp.up_proj |\n|---|---|---|\n| `model.layers.0` | 0.0100 |  |\n"
        in card
    )
    assert "| `model.layers.29` | 0.5900 | 0.6000 |" in card
    assert card.count("\n- `") == 0
    assert "unstructured" in card
    assert "neither the files nor the memory get smaller" in card
    assert "Share of the base model's prunable weights set to zero: 0.5000." in card


def test_units_that_are_whole_blocks_are_one_column(strategy):
    units = {"model.layers.0": 0.25, "model.layers.7": 0.5, "head": 0.1}
    card = write_card("m", (strategy.model_copy(update={"space": "sparsity", "units": units}),), 1, "")
    assert "- `head`: 0.1000\n\n| block | all |\n|---|---|\n| `model.layers.0` | 0.2500 |" in card


def test_two_strategies_are_told_apart(strategy):
    zeroed = strategy.model_copy(update={"space": "sparsity"})
    card = write_card("m", (strategy, zeroed), 1, "")
    assert card.index("## What was removed") < card.index("## What was zeroed")


def test_a_long_recipe_is_left_in_its_own_file(strategy):
    card = write_card("m", (strategy,), 1, "a: 1\n" * 200)
    assert "`recipe.yaml`, beside this file." in card
    assert "a: 1" not in card


def test_a_divergence_that_is_not_the_checkpoints_is_said_to_be_the_profiles(strategy):
    card = write_card(
        "org/model", (strategy,), 1, "", divergence_note=find_divergence_note([strategy], ["QuantizationModifier"])
    )
    assert (
        "This is the profile's, without the recipe's QuantizationModifier; this checkpoint itself was not measured, "
        "unicuco evaluate does it."
    ) in card
    assert "This is the profile's" not in write_card("org/model", (strategy,), 1, "")


def rendered(card):
    """The card below its front matter, as a renderer of Markdown sees it."""
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    return markdown.parse(card.split("\n---\n", 1)[1])


def kinds(card):
    """Kinds of everything in it, text apart: what names cannot change."""
    tokens = [child for token in rendered(card) for child in (token, *(token.children or []))]
    return [token.type for token in tokens if token.type not in {"text", "text_special"}]


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("space", ["depth", "sparsity"])
def test_names_of_strangers_are_only_text(strategy, space, name):
    def card(name):
        units = {f"{name}.{index}.{name}": 0.5 for index in range(2)} | {f"{name}x": 0.25, name: 1.0}
        fields = {"space": space, "units": units, "source": "peer", "peer": name}
        return write_card(
            f"/models/{name}", (strategy.model_copy(update=fields),), 1, "a: 1", divergence_note=f"of {name}"
        )

    hostile, usual = card(name), card("usual")
    assert front_matter(hostile) == front_matter(usual)
    code = {"html_inline", "code_inline"}  # in a table it is HTML where a name has a bar
    assert [kind for kind in kinds(hostile) if kind not in code] == [kind for kind in kinds(usual) if kind not in code]
    children = [child for token in rendered(hostile) for child in token.children or []]
    assert {child.content for child in children if child.type == "html_inline"} <= {"<code>", "</code>"}
    assert all(character == "\n" or character.isprintable() for character in hostile)


@pytest.mark.parametrize("name", [*NAMES.values(), "a/b\nc: d", "a/b: c", "../b", "a/b/c", "a/ b", "é/b", "a/#b"])
def test_only_a_name_that_the_hub_allows_is_in_the_front_matter(name):
    for base in (name, f"org/{name}", f"{name}/model"):
        assert front_matter(write_card(base, (), 1, "")).keys() == {"library_name", "tags"}


def test_a_recipe_cannot_end_its_block():
    recipe = "a: |\n  ```\n  # not a heading\n  ````\nb: \x1b"
    card = write_card("org/model", (), 1, recipe)
    [block] = [token for token in rendered(card) if token.type == "fence" and token.info == "yaml"]
    assert block.content == recipe.replace("\x1b", "\\u001b") + "\n"
