"""Recipes for the answers to requests that come as queries."""

import pytest
import yaml
from asgi import BITS, DEPTH

from unicuco_plugin.answering import load_profile
from unicuco_plugin.errors import RequestError
from unicuco_plugin.request import Request
from unicuco_plugin.web.carrying import write_recipe

STRUCTURED = "smollm2-135m-instruct-structured"


@pytest.mark.parametrize(
    ("query", "field", "value"),
    [
        ("sparsity=2", "sparsity", "'2'"), ("x=1", "x", "'1'"), ("bits=-1&context=0", "bits", "'-1'"),
        ("sparsity=0.1&sparsity=0.2", "sparsity", "['0.1', '0.2']"), ("", "query", "{}"),
    ],
)  # fmt: skip
def test_a_wrong_query_is_a_problem_with_field_rule_and_value(service, query, field, value):
    problem = service.get(f"/v1/profiles/{DEPTH}/recipe?{query}").json()
    assert (problem["code"], problem["field"], problem["value"]) == ("invalid-request", field, value)
    assert problem["detail"].startswith(problem["rule"])


def test_a_recipe_holds_the_strategy_that_answers(service):
    got = service.get(f"/v1/profiles/{BITS}/recipe?max_bytes=120MB")
    stage = yaml.safe_load(got.text)["quantization_stage"]["quantization_modifiers"]
    assert list(stage) == ["SparsityProfileModifier", "GPTQModifier"]
    assert stage["SparsityProfileModifier"]["strategy"] == load_profile(BITS).answer(max_bytes="120MB").to_dict()
    both = yaml.safe_load(service.get(f"/v1/profiles/{DEPTH}/recipe?preference=1,3").text)
    source = both["pruning_stage"]["pruning_modifiers"]["SparsityProfileModifier"]
    assert source["strategy"]["request"] == {"preference": [0.25, 0.75]}


def test_a_query_is_read_as_the_command_line_reads_it(service):
    assert service.get(f"/v1/profiles/{DEPTH}/recipe?max_bytes=200MB").status_code == 200
    with pytest.raises(RequestError):
        Request.of(max_bytes="200 bags")
    assert service.get(f"/v1/profiles/{DEPTH}/recipe?max_bytes=200bags").status_code == 422


def test_a_recipe_that_needs_times_names_their_table():
    asked = Request.of(min_speedup=1.2, context=64)
    answer = load_profile(STRUCTURED).answer(sparsity=0.25).model_copy(update={"request": asked})
    source = yaml.safe_load(write_recipe(answer, STRUCTURED))["pruning_stage"]["pruning_modifiers"]
    expected = {"profile": STRUCTURED, "request": asked.to_dict(), "device_table": "device.json"}
    assert source["SparsityProfileModifier"] == expected
