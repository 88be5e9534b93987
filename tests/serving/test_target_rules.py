"""Expressions that say something else than was meant."""

import pytest
from quantisations import alone, found, integers, layout_of

from unicuco_plugin.serving.target_rules import TARGET_RULES

UNITS = [alone(f"model.layers.{block}.mlp.down_proj") for block in range(24)]


def rules_of(*args, **fields):
    return found(TARGET_RULES, layout_of(*args, **fields))


@pytest.mark.parametrize(
    "text",
    [
        "re:.*layers.1",
        "re:model.layers.1.*down",
        r"re:.*layers\.2",
        "re:model.layers.[0-2]",
        r"re:.*\.layers\.(1|2).*proj",
    ],
)
@pytest.mark.parametrize("place", ["targets", "ignore"])
def test_an_expression_that_stops_inside_a_number_is_told(text, place):
    targets, ignore = (["Linear", text], []) if place == "targets" else (["Linear"], [text])
    findings = rules_of(UNITS, (targets, integers()), ignore=ignore)
    [finding] = [entry for entry in findings if entry.rule == "prefix"]
    assert finding.severity == "warning"
    assert finding.message.startswith("also matches model.layers.")


@pytest.mark.parametrize(
    "text",
    [
        r"re:.*layers\.1\.", r"re:.*layers\.(1|10|11)\.mlp", r"re:.*layers\.[0-9]+\.mlp", r"re:.*layers\.1\d\.",
        "re:.*down_proj", "re:.*", r"re:.*layers\.\d*[13579]\.", r"re:.*layers\.[1-9]\d*\.",
        "model.layers.1.mlp.down_proj",
    ],
)  # fmt: skip
def test_one_that_ends_where_the_number_does_is_in_order(text):
    assert [entry.rule for entry in rules_of(UNITS, (["Linear", text], integers()))] == []


def test_no_block_of_two_digits_no_finding():
    assert rules_of(UNITS[:10], (["re:.*layers.1"], integers())) == []


def test_a_target_that_matches_nothing_is_told():
    [finding] = rules_of(UNITS, (["Linear", "model.layers.99.mlp.down_proj"], integers()))
    assert (finding.rule, finding.where) == ("no_match", "targets: 'model.layers.99.mlp.down_proj'")


def test_targets_of_two_schemes_on_one_name_are_told_once():
    findings = rules_of(UNITS, (["re:.*down_proj"], integers(4)), (["re:.*mlp"], integers(8)))
    assert [entry.rule for entry in findings] == ["ambiguous"]
    assert rules_of(UNITS, (["re:.*down_proj"], integers(4)), (["re:.*mlp"], integers(4))) == []


def test_a_class_beside_names_is_the_usual_way_and_not_ambiguous():
    assert rules_of(UNITS, (["Linear"], integers(4)), ([UNITS[0].name], integers(8))) == []
