"""Refusals in one line of bounded length."""

import pytest

from unicuco_plugin.files.refusal import refusal, show

LOOP: list = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        (0.5, "0.5"),
        ("\x1b[31m\n", r"'\x1b[31m\n'"),
        ("ä", r"'\xe4'"),
        ("x" * 1000, "'" + "x" * 58 + "…"),
        (list(range(100)), str(list(range(100)))[:59] + "…"),
        (10**5000, "what cannot be written (int)"),
        (LOOP, "[[...]]"),
    ],
    ids=["word", "number", "control", "umlaut", "long", "list", "digits", "loop"],
)
def test_a_value_is_shown_short_and_without_control_characters(value, text):
    assert show(value) == text


def test_a_refusal_names_file_and_line_in_at_most_300_printable_characters():
    assert str(refusal("r.yaml", "must be good", 3)) == "r.yaml, line 3: must be good"
    assert str(refusal("r.yaml", "must be\n  good\x1b")) == "r.yaml: must be good"
    message = str(refusal("/long" * 100, "word " * 100))
    assert message.startswith("…") and message.endswith("…") and len(message) == 300
