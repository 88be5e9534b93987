"""Inputs of strangers: each is judged, and what was tried is counted; tests/conftest.py tells it at the end."""

import pytest
from judging import limited

from unicuco_plugin.errors import UnicucoError


@pytest.fixture
def judge(request, tmp_path):
    """Call what reads an input; an error of ours is right, and so is a result that ``check`` accepts."""
    tried = refused = 0

    def run(read, check=lambda result: None):
        nonlocal tried, refused
        tried += 1
        try:
            with limited():
                result = read()
        except UnicucoError as error:
            refused += 1
            assert str(error)
            return str(error)
        check(result)
        return None

    run.folder = tmp_path
    run.shared = request.getfixturevalue
    yield run
    # Properties of a test reach the process that reports, from whichever worker ran it.
    name = request.node.name.removeprefix("test_")
    request.node.user_properties.append(("fuzz", [name, tried, refused]))
