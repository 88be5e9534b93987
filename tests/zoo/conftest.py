"""Which cells run: all of a shard with ``-m zoo``, else a tenth that changes with the day."""

import os

import pytest

from zoo.cells import Cage, Reader
from zoo.families import ANIMALS
from zoo.shards import TENTHS, read_shard, shard


def pytest_collection_modifyitems(config, items):
    everything = "zoo" in config.getoption("-m") or any("[" in argument for argument in config.args)
    part = read_shard(config.getoption("--zoo-shard") if everything else f"{os.environ['ZOO_TENTH']}/{TENTHS}")
    due = set(shard(ANIMALS, part))
    left_out = [item for item in items if item.get_closest_marker("zoo") and item.callspec.params["name"] not in due]
    items[:] = [item for item in items if item not in left_out]
    if left_out:
        config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter, config):
    if "zoo" not in config.getoption("-m"):
        tenth = os.environ["ZOO_TENTH"]
        terminalreporter.write_line(f"zoo: tenth {tenth} of {TENTHS} (again: --zoo-tenth {tenth}; all: -m zoo)")


@pytest.fixture(scope="session")
def reader():
    with Reader() as process:
        yield process


@pytest.fixture(scope="module")
def cage(reader, tmp_path_factory):
    """Configurations by name, each built and saved once."""
    cages = {}

    def get(name):
        if name not in cages:
            cages.clear()
            cages[name] = Cage(name, tmp_path_factory.mktemp(name), reader)
        return cages[name]

    return get
