"""When a profile's divergence is the checkpoint's, and what is said when it is not."""

import pytest
from depth_strategies import whole_block_strategy
from tiny import tiny_model

from unicuco_plugin.modifiers.export.divergence_note import find_divergence_note


@pytest.fixture(scope="module")
def depth(machine):
    return whole_block_strategy(tiny_model("llama"), [1])


@pytest.fixture(scope="module")
def sparse(depth, machine):
    return depth.model_copy(update={"space": "sparsity", "levels": "f00d"})


@pytest.mark.parametrize(("strategies", "others"), [(1, []), (0, ["GPTQModifier"]), (0, [])])
def test_one_strategy_and_nothing_else_is_what_was_measured(depth, strategies, others):
    assert find_divergence_note([depth] * strategies, others) == ""


@pytest.mark.parametrize(
    ("strategies", "others", "words"),
    [
        (1, ["SparseGPTModifier", "GPTQModifier"], "without the recipe's SparseGPTModifier, GPTQModifier; this"),
        (2, [], "for each strategy alone; this checkpoint itself was not measured"),
        (2, ["WandaPruningModifier"], "for each strategy alone and without the recipe's WandaPruningModifier; this"),
    ],
)
def test_everything_else_is_named(depth, strategies, others, words):
    assert find_divergence_note([depth] * strategies, others).startswith(words)


def test_weights_stitched_from_the_profiles_own_database_are_what_was_measured(sparse):
    assert find_divergence_note([sparse], [], "f00d") == ""


def test_weights_from_another_database_are_not(sparse):
    words = "of weights from another level database; this checkpoint"
    assert find_divergence_note([sparse], [], "beef").startswith(words)
    assert find_divergence_note([sparse.model_copy(update={"levels": None})], [], "f00d").startswith(words)


def test_parts_of_another_ranking_are_not(depth):
    structured = depth.model_copy(update={"space": "structured"})
    words = "of the profile's own parts and biases; this checkpoint itself was not measured"
    assert find_divergence_note([structured], [], own_parts=False).startswith(words)
    assert find_divergence_note([structured], []) == find_divergence_note([depth], [], own_parts=False) == ""
