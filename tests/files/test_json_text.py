"""JSON that any reader takes."""

import json
import math

import pytest

from unicuco_plugin.files.json_text import json_text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_becomes_null_wherever_it_stands(value):
    text = json_text({"a": value, "b": [1.5, value], "c": {"d": (value, "NaN")}})
    assert text == '{"a": null, "b": [1.5, null], "c": {"d": [null, "NaN"]}}'


def test_everything_else_is_as_json_writes_it():
    data = {"ü": [1, 0.1, None, True, "x"], "n": {"m": []}}
    assert json_text(data, indent=1) == json.dumps(data, indent=1, ensure_ascii=False)
    assert json_text(data, ascii_only=True) == json.dumps(data)
