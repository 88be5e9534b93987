"""docs/kinds.md names modules and tests that there are."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = re.findall(r"^\| (\d) \|.*$", (text := (ROOT / "docs" / "kinds.md").read_text(encoding="utf8")), re.MULTILINE)
TESTS = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
MODULES = re.findall(r"`([\w/]+\.py)`", text.replace("`tests/test_kinds.py`", ""))


def test_there_are_nine_kinds_each_with_a_module_and_a_test():
    assert [str(number) for number in range(1, 10)] == ROWS
    for line in text.splitlines():
        if re.match(r"\| \d \|", line):
            assert re.search(r"`[\w/]+\.py`", line) and "::test_" in line


@pytest.mark.parametrize("module", sorted(set(MODULES)))
def test_a_module_that_holds_a_rule_is_there(module):
    assert (ROOT / "src" / "unicuco_plugin" / module).is_file()


@pytest.mark.parametrize(("file", "name"), sorted(set(TESTS)))
def test_a_test_that_would_have_caught_a_kind_is_there(file, name):
    tree = ast.parse((ROOT / file).read_text(encoding="utf8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
