"""``--ray`` and what is said of workers on it."""

import builtins

import pytest
import yaml

from unicuco_plugin import LevelWorkers, ModelSource, RayWorkers, training
from unicuco_plugin.benchmark import run
from unicuco_plugin.cli.ray_options import ray_words
from unicuco_plugin.levels import build


@pytest.fixture
def asked(monkeypatch, unicuco):
    """What training is given as workers, and how the command ends."""

    def ask(*options):
        calls = []

        def record(*_, workers, **__):
            calls.append(workers)
            raise ZeroDivisionError  # nothing after the call is of interest

        monkeypatch.setattr(training, "train_profile", record)
        return unicuco("train", "--model", "m", "--output", "o", *options), calls

    return ask


@pytest.mark.parametrize(
    ("options", "workers"),
    [
        ([], None),
        (["--ray"], RayWorkers()),
        (["--ray", "--workers", "4"], RayWorkers(count=4)),
        (["--ray", "auto", "--gpus-per-worker", "0.5"], RayWorkers("auto", gpus=0.5)),
        (
            ["--workers", "2", "--cpus-per-worker", "8", "--ray=head:6379"],
            RayWorkers("head:6379", 2, cpus=8),
        ),
    ],
    ids=["none", "here", "four", "auto", "address"],
)
def test_workers_are_what_the_options_say(asked, options, workers):
    pytest.importorskip("ray")
    assert asked(*options)[1] == [workers]


def test_workers_without_ray_are_refused(asked):
    result, calls = asked("--gpus-per-worker", "1")
    assert result.exit_code == 2
    assert "--gpus-per-worker is about workers on Ray: add --ray" in result.stderr
    assert not calls


def test_without_ray_the_extra_is_named_before_anything_is_loaded(asked, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **fields):
        if name == "ray":
            raise ImportError(name)
        return real(name, *args, **fields)

    monkeypatch.setattr(builtins, "__import__", missing)
    result, calls = asked("--ray")
    assert result.exit_code == 1
    assert result.stderr == "error: workers on Ray need Ray: pip install 'unicuco-plugin[ray]'\n"
    assert not calls


@pytest.mark.slow
def test_levels_are_built_by_workers_that_load_the_same_model(dense, text, tmp_path, unicuco, monkeypatch):
    pytest.importorskip("ray")
    calls = []

    def record(*_, workers, **__):
        calls.append(workers)
        raise ZeroDivisionError  # nothing after the call is of interest

    monkeypatch.setattr(build, "build_levels", record)
    arguments = ["levels", "build", "--model", dense, "--output", tmp_path / "db", "--calibration", text]
    arguments += ["--samples", 2, "--seq-length", 16, "--dtype", "bfloat16"]
    unicuco(*arguments, "--ray", "auto", "--workers", 3)
    unicuco(*arguments, "--ray", "--levels-transport", "driver")
    unicuco(*arguments)
    source = ModelSource(str(dense), dtype="bfloat16", offload="auto")
    assert calls == [
        LevelWorkers(RayWorkers("auto", 3), source), LevelWorkers(RayWorkers(), source, "driver"), None
    ]  # fmt: skip
    result = unicuco(*arguments, "--levels-transport", "driver")
    assert result.exit_code == 2
    assert "--levels-transport is about workers on Ray: add --ray" in result.stderr


def test_a_benchmark_is_run_by_workers_and_its_command_is_whole(text, tmp_path, unicuco, monkeypatch):
    pytest.importorskip("ray")
    windows = {"sources": [str(text)], "windows": 2, "seq_length": 16}
    plan = {"model": "m", "calibration": windows, "evaluation": {"prose": windows}, "budgets": [0.3]}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan | {"methods": {"shortgpt": {"peer": "shortgpt"}}}))
    calls = []

    def record(*_, workers, **__):
        calls.append(workers)
        raise ZeroDivisionError  # nothing after the call is of interest

    monkeypatch.setattr(run, "run_benchmark", record)
    arguments = ["benchmark", tmp_path / "plan.yaml", "--output", tmp_path / "out"]
    unicuco(*arguments, "--ray", "auto", "--workers", 2, "--gpus-per-worker", "0.5")
    unicuco(*arguments)
    assert calls == [RayWorkers("auto", 2, gpus=0.5), None]


def test_options_are_written_as_they_were_given():
    fields = {"ray": "local", "workers": 2, "gpus_per_worker": None, "cpus_per_worker": 1.5}
    assert ray_words(fields) == ["--ray", "--workers", "2", "--cpus-per-worker", "1.5"]
    assert ray_words(fields | {"ray": None, "workers": None, "cpus_per_worker": None}) == []
