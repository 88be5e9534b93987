"""What the model card says."""

import pytest
import yaml
from depth_strategies import whole_block_strategy
from tiny import tiny_model

from unicuco_plugin.modifiers.card import write_card


@pytest.fixture(scope="module")
def strategy():
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
