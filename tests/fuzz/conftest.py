"""Inputs of strangers: each is judged, and what was tried is counted and told at the end."""

from collections import Counter

import pytest
from judging import limited

from unicuco_plugin.errors import UnicucoError

TRIED, REFUSED = Counter(), Counter()


@pytest.fixture
def judge(request, tmp_path):
    """Call what reads an input; an error of ours is right, and so is a result that ``check`` accepts."""
    name = request.node.name.removeprefix("test_")

    def run(read, check=lambda result: None):
        TRIED[name] += 1
        try:
            with limited():
                result = read()
        except UnicucoError as error:
            REFUSED[name] += 1
            assert str(error)
            return str(error)
        check(result)
        return None

    run.folder = tmp_path
    run.shared = request.getfixturevalue
    return run


def pytest_terminal_summary(terminalreporter):
    """Say how many inputs were tried, and how many of them were refused."""
    if TRIED:
        terminalreporter.write_line(f"fuzz: {TRIED.total():,} inputs tried, {REFUSED.total():,} of them refused")
        for name, count in sorted(TRIED.items()):
            terminalreporter.write_line(f"  {count:6,} {REFUSED[name]:6,} refused  {name}")
