"""Training on workers of a real cluster on this machine: the archive of one process, whoever is killed."""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from broken_builds import contents
from tiny import WORDS, tiny_model, tiny_tokenizer

from unicuco_plugin.errors import CalibrationError, EvaluationError, LevelsError, ModelMismatchError
from unicuco_plugin.executors.crew import LostError
from unicuco_plugin.executors.on_ray import RayWorker, RayWorkers
from unicuco_plugin.executors.solving import LevelWorkers
from unicuco_plugin.journal.measuring import RANK
from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.training import JOURNAL, ModelSource, train_profile

SETTINGS = Settings(
    tokens=64, seq_length=16, rank_tokens=32, rank_seq_length=16, initial=10, epochs=3, steps=5, pool=32, picks=4,
    starts=1, target="log", lag=1,
)  # fmt: skip


def actors_of(parent):
    """Processes of actors that a cluster of this process runs."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
            above = int((folder / "stat").read_text(encoding="utf8").rpartition(")")[2].split()[1])
            if name.startswith(b"ray::_Actor"):
                grand = Path(f"/proc/{above}/stat").read_text(encoding="utf8").rpartition(")")[2].split()[1]
                found += [int(folder.name)] * (int(grand) == parent)
        except OSError:  # it has ended meanwhile
            continue
    return found


def facts_of(folder):
    record = json.loads((folder / "profile.json").read_text(encoding="utf8"))
    said = {name: value for name, value in record.items() if name not in {"provenance", "digest", "name"}}
    with contextlib.closing(sqlite3.connect(folder / JOURNAL)) as journal:
        return said, sorted(journal.execute("SELECT fidelity, key, value, per_window FROM measurements"))


@pytest.mark.parametrize(
    ("cause", "raised"),
    [
        (CalibrationError("no room here"), LostError),
        (LevelsError("not mounted here"), LostError),
        (OSError("broken here"), LostError),
        (ModelMismatchError("another model"), ModelMismatchError),
    ],
    ids=lambda value: str(value) if isinstance(value, Exception) else "",
)
def test_what_may_be_the_machines_fault_loses_a_worker_and_another_model_ends_the_run(cause, raised):
    errors = pytest.importorskip("ray").exceptions

    def fail(_):
        raise errors.RayTaskError("load", "a traceback", cause)

    actor = SimpleNamespace(load=SimpleNamespace(remote=lambda: None))
    with pytest.raises(raised, match=f"^{cause}$"):
        RayWorker(SimpleNamespace(exceptions=errors, get=fail), actor).load()


def test_a_worker_that_cannot_begin_says_why():
    errors = pytest.importorskip("ray").exceptions

    def fail(_):
        raise errors.RayError(
            "The actor died because of an error raised in its creation task\n at x:\nImportError: no y\n"
        )

    actor = SimpleNamespace(load=SimpleNamespace(remote=lambda: None))
    with pytest.raises(LostError, match=r"^ImportError: no y$"):
        RayWorker(SimpleNamespace(exceptions=errors, get=fail), actor).load()


def test_workers_on_a_device_that_ray_keeps_for_nobody_are_refused():
    setup = SimpleNamespace(specs={RANK: SimpleNamespace(device="cuda")})
    with pytest.raises(EvaluationError, match=r"^gpus of a worker must be above 0 on cuda, got 0: .*--gpus-per-worker"):
        RayWorkers(count=2).start(setup, print).__enter__()


def test_the_start_on_slurm_passes_processors_on(tmp_path):
    for name, does in (("srun", 'printf "%s\\n" "$@"'), ("scontrol", "echo first; seq 100000")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n", encoding="utf8")
        (tmp_path / name).chmod(0o755)
    job = {"JOB_NODELIST": "first,second", "JOB_NUM_NODES": "2", "GPUS_ON_NODE": "8", "CPUS_PER_TASK": "64"}
    given = {f"SLURM_{name}": value for name, value in job.items()} | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = Path(__file__).parents[2] / "examples/ray/slurm.sh"
    done = subprocess.run(["bash", script, "--picks", "6 4"], env=given, capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert said[said.index("--cpus-per-task") + 1] == "64"
    assert said[said.index("--address") + 1] == "first:6379"
    assert said[said.index("--picks") + 1 :] == ["6 4", "--ray", "auto", "--workers", "16"]


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_end_in_the_archive_of_one_process(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("UNICUCO_DISABLE_PLUGINS", "1")
    dense, text = tmp_path / "dense", tmp_path / "text.txt"
    tiny_model("llama").save_pretrained(dense)
    tiny_tokenizer(dense)
    words = random.Random(0)  # noqa: S311
    text.write_text("\n\n".join(" ".join(words.choices(WORDS, k=50)) for _ in range(60)), encoding="utf8")
    messages, killed = [], []

    def watch(event):
        messages.append(event.message)
        if event.stage.startswith("epoch") and not killed:
            killed.append(actors_of(os.getpid())[0])
            os.kill(killed[0], signal.SIGKILL)

    def train(name, **how):
        train_profile(dense, tmp_path / name, calibration=[str(text)], settings=SETTINGS, **how)
        return facts_of(tmp_path / name)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = train("alone")
        assert train("workers", workers=RayWorkers(count=2), progress=watch) == alone
    finally:
        torch.set_num_threads(threads)
    assert killed
    assert any(message.startswith("a worker was lost: ") for message in messages)
    assert not actors_of(os.getpid())


@pytest.mark.slow
def test_linears_solved_by_two_workers_of_which_one_is_killed_make_the_database_of_one_process(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("UNICUCO_DISABLE_PLUGINS", "1")
    model, killed, said = tiny_model("llama", blocks=3), [], []
    model.save_pretrained(tmp_path / "dense")
    windows = torch.randint(4, 128, (6, 16), generator=torch.Generator().manual_seed(0))

    def watch(event):
        said.append(event.message)
        if event.done >= 4 and not killed:
            killed.append(actors_of(os.getpid())[0])
            os.kill(killed[0], signal.SIGKILL)

    def build(name, **how):
        settings = LevelSettings(sparsities=(0.3, 0.7), batch_windows=4)
        build_levels(find_decoder(model), windows, tmp_path / name, name="tiny", settings=settings, **how)
        return contents(tmp_path / name)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = build("alone")
        workers = LevelWorkers(RayWorkers(count=2), ModelSource(tmp_path / "dense"), "driver")
        assert build("workers", workers=workers, progress=watch) == alone
    finally:
        torch.set_num_threads(threads)
    assert killed
    assert any(message.startswith("a worker was lost: ") for message in said)
    assert not actors_of(os.getpid())
