"""A profile and its strategies in words."""

from types import SimpleNamespace

import pytest

from unicuco_plugin.report.front import describe_profile, describe_strategies, list_units, profile_data
from unicuco_plugin.strategy import ModelReference, Strategy


def strategy(indices=(1,), *, measured=True, **changes):
    data = {
        "schema": 1, "space": "depth", "model": {"name": "m", "fingerprint": "f"}, "request": {"sparsity": 0.3},
        "sparsity": len(indices) / 4, "params": 123_456, "bytes": 246_912, "source": "archive",
        "divergence": {"mean": 0.5, "interval90": [0.25, 1.0], "measured": measured},
        "units": {f"model.layers.{index}": 1.0 for index in indices},
    }  # fmt: skip
    return Strategy.from_dict(data | changes)


@pytest.fixture
def profile():
    return SimpleNamespace(
        name="p", space="depth", model=ModelReference(name="m", fingerprint="f"), units=("a", "b"),
        provenance={"command": "unicuco train", "evaluation_tokens": 300_000, "seconds": 605.2, "settings": {"seed": 0},
                    "versions": {"torch": "2"}, "interrupted": False},
        front=lambda: [strategy((1,)), strategy((1, 2), measured=False)],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("units", "text"),
    [
        ({}, "nothing"),
        ({"model.layers.3": 1.0}, "model.layers 3"),
        ({f"model.layers.{i}": 1.0 for i in (11, 3, 12, 13)}, "model.layers 3, 11-13"),
        ({"a.1": 1.0, "b.1": 1.0, "head": 1.0}, "a 1; b 1; head"),
        ({f"a.{i}.q": 0.1 * i for i in range(1, 8)}, "7 units, 0.100 to 0.700 of each"),
        ({"a.1": 1.0, "a.2": 0.25}, "a 1; a.2 0.25"),
    ],
)
def test_units_are_listed_in_one_line(units, text):
    assert list_units(units) == text


def test_several_answers_are_a_table_without_units():
    answers = [strategy(), strategy((1, 2), measured=False, request={"max_params": 130_000})]
    header, _, first, second = describe_strategies(answers).splitlines()
    assert header.split()[:2] == ["request", "units"]
    assert " ".join(first.split()) == "sparsity 0.3 1 0.2500 123.5 k 246.9 kB 0.5000 0.2500 to 1.0000 measured archive"
    assert second.startswith("max_params 130,000      2") and "predicted" in second


def test_a_preference_and_what_is_carried_over_are_named():
    divergence = {"mean": 0.5, "interval90": [0.2, 1.0], "measured": False, "carried_over": True}
    text = describe_strategies([strategy(request={"preference": [1, 3]}, divergence=divergence)])
    assert "preference 0.25,0.75" in text and "carried over" in text
    assert text.endswith("removes model.layers 1")


def test_a_compensation_that_divergences_are_with_is_said_once():
    answers = [strategy(), strategy((1, 2)).model_copy(update={"compensation": "ridge"})]
    assert describe_strategies(answers).splitlines()[-1] == "divergences are with compensation ridge"
    assert "compensation" not in describe_strategies(answers[:1])


def test_a_profile_says_how_it_was_made(profile):
    lines = describe_profile(profile).splitlines()
    facts = dict(line.split("  ", 1) for line in lines[: lines.index("")])
    assert {name: fact.strip() for name, fact in facts.items()} == {
        "profile": "p", "model": "m (f)", "space": "depth, 2 units", "command": "unicuco train",
        "evaluation tokens": "300.0 k", "seconds": "10 min 05 s", "versions": "torch 2",
    }  # fmt: skip
    assert lines[-1].endswith("archive  model.layers 1-2")


def test_json_holds_all_of_it(profile):
    data = profile_data(profile)
    assert data["provenance"] == profile.provenance
    assert [Strategy.from_dict(entry) for entry in data["front"]] == profile.front()


def test_a_profile_says_which_schemes_are_not_offered_and_why(profile):
    settings = {"schemes": ["W8A16:channel", "W6A16", "W8A8"], "inputs": "dense"}
    header = {"levels": ["0", settings], "left_out": {"W8A8": 120, "W6A16": 3}, "ignore": []}
    profile.provenance = {"levels": header}
    text = describe_profile(profile)
    assert "W8A8 not offered to 120 units, where one as small leaves inputs alone or loses less" in text
    assert "W6A16 not offered to 3 units, where one as small loses no more" in text
