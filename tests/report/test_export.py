"""A finished checkpoint in words."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from depth_strategies import whole_block_strategy
from tiny import tiny_model

from unicuco_plugin.modifiers.carriers.achieved import Achieved, LinearSparsity
from unicuco_plugin.modifiers.export.divergence_note import find_divergence_note
from unicuco_plugin.modifiers.export.result import Export
from unicuco_plugin.report.export import describe_export, export_data


@pytest.fixture
def zeroed():
    strategy = whole_block_strategy(tiny_model("llama"), space="sparsity", sparsity=0.375)
    strategy = strategy.model_copy(update={"units": {f"model.layers.{i}": 0.25 + i / 100 for i in range(6)}})
    achieved = Achieved("WandaPruningModifier", 2000, (LinearSparsity("l", "l", 1000, 500, 505, 505),), 2500)
    return Export(Path("out"), None, (strategy,), 3000, 6000, 1.5, achieved)


def test_zeroed_weights_are_told_in_two_lines_however_many_units_there_are(zeroed):
    first, second, *_ = describe_export(zeroed).splitlines()
    assert first == "zeroed      6 units by 0.2500 to 0.3000 of their weights (sparsity 0.3750 of the dense model)"
    assert second.startswith("divergence ")
    assert (
        "zeros       505 of 2,000 weights (0.2525), by WandaPruningModifier in 1 linears, which have 40.0% of the "
        "weights of the blocks; furthest from its plan l, by 0.005 of its weights"
    ) in describe_export(zeroed)


def test_json_holds_every_linear(zeroed):
    assert json.loads(export_data(zeroed))["achieved"]["linears"][0]["achieved"] == 505


def test_notes_are_told_one_a_line(zeroed):
    assert json.loads(export_data(zeroed))["notes"] == []
    told = replace(zeroed, notes=("one thing", "and\nanother"))
    assert "note        one thing\nnote        and\\u000aanother\n" in describe_export(told)
    assert json.loads(export_data(told))["notes"] == ["one thing", "and\nanother"]


def test_what_keeps_a_divergence_from_being_the_checkpoints_is_said(zeroed):
    assert json.loads(export_data(zeroed))["caveat"] == ""
    told = replace(zeroed, divergence_note=find_divergence_note(zeroed.strategies, ["WandaPruningModifier"]))
    assert "without the recipe's WandaPruningModifier; this checkpoint itself was not measured" in describe_export(told)
