"""Expressions that must not reach ``re`` in this process before they were tried out in another."""

import re
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin import patterns
from unicuco_plugin.patterns import BadPattern, find_bad_pattern

NAMES = ["model.layers.0.mlp.down_proj", "lm_head"]


@pytest.mark.parametrize(
    "pattern",
    [
        ".*lm_head",
        r"model\.layers\.(0|1|2)\..*",
        r"^(?!.*(lm_head|router)).*_proj$",
        ".*layers.*mlp.*experts.*gate.*",
        "",
    ],
)
def test_what_recipes_are_written_with_will_do(pattern):
    assert find_bad_pattern([pattern], NAMES) is None


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("((", "is no regular expression: missing ), unterminated subpattern at position 1"),
        ("a{99999999999999}", "is no regular expression: the repetition number is too large"),
        ("*", "is no regular expression: nothing to repeat at position 0"),
        ("(a+)+$", "backtracks without end on module names; write it without a repeat in a repeat"),
        ("(0|00)*!!", "backtracks without end on module names; write it without a repeat in a repeat"),
        ("(.*)*x", "backtracks without end on module names; write it without a repeat in a repeat"),
        ("x" * 1001, "must have at most 1,000 characters, got 1,001"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_named_with_the_reason(pattern, reason):
    assert find_bad_pattern([".*lm_head", pattern, "(?=x)"]) == BadPattern(pattern, reason)


def test_what_is_harmless_on_usual_names_is_tried_on_the_names_it_will_meet():
    pattern = r"very\.(q+)+$"
    assert find_bad_pattern([pattern], NAMES) is None
    assert find_bad_pattern([pattern], ["very." + "q" * 40 + "."]).reason.startswith("backtracks without end")


def test_a_pattern_that_is_searched_is_tried_so():
    pattern = "b(q+)+$"
    names = ["ab" + "q" * 40 + "."]
    assert find_bad_pattern([pattern], names) is None
    assert find_bad_pattern([], names, searched=[pattern]) is not None


def test_so_many_doubtful_patterns_are_refused_at_once():
    bad = find_bad_pattern(f"(?=x{number})" for number in range(501))
    assert bad == BadPattern("(?=x500)", "is one of 501 expressions, got more than 500")


def test_usual_patterns_start_no_process(monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    assert find_bad_pattern([".*lm_head", r".*\.(q|k|v)_proj$", r"model\.layers\.\d+\.mlp\..*"], NAMES) is None


@given(st.text(alphabet="ab1_.\\dw*+?()|:^$-[]{}", max_size=12))
def test_what_starts_no_process_compiles_and_repeats_nothing_twice(pattern):
    if patterns._is_harmless(pattern):
        re.compile(pattern)
        assert sum(pattern.count(repeat) for repeat in "*+") <= 2


def test_without_an_interpreter_a_doubtful_pattern_is_refused(monkeypatch):
    monkeypatch.setattr(patterns.sys, "executable", "/no/such/python")
    assert find_bad_pattern(["(?=x)"]).reason.startswith("cannot be tried out: [Errno 2]")
