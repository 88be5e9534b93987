"""When a profile's divergence is the checkpoint's, and what is said when it is not."""

import pytest

from unicuco_plugin.modifiers.caveat import find_caveat


@pytest.mark.parametrize(("strategies", "others"), [(1, []), (0, ["GPTQModifier"]), (0, [])])
def test_one_strategy_and_nothing_else_is_what_was_measured(strategies, others):
    assert find_caveat(strategies, others) == ""


@pytest.mark.parametrize(
    ("strategies", "others", "words"),
    [
        (1, ["SparseGPTModifier", "GPTQModifier"], "without the recipe's SparseGPTModifier, GPTQModifier; this"),
        (2, [], "for each strategy alone; this checkpoint itself was not measured"),
        (2, ["WandaPruningModifier"], "for each strategy alone and without the recipe's WandaPruningModifier; this"),
    ],
)
def test_everything_else_is_named(strategies, others, words):
    assert find_caveat(strategies, others).startswith(words)
