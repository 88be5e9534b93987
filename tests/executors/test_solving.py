"""Linears are solved by workers, wherever these write: the database of one process, whoever is lost."""

import pytest
import torch
from broken_builds import contents
from tiny import VOCABULARY, tiny_mamba, tiny_model
from tiny_moe import tiny_mixture
from worker_threads import Threads

from unicuco_plugin.errors import EvaluationError, LevelsError, ModelMismatchError
from unicuco_plugin.executors import crew
from unicuco_plugin.executors.blocks import BlockLine, LinearJob
from unicuco_plugin.executors.crew import LostError
from unicuco_plugin.executors.solving import LevelWorkers
from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.record import read_record
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.training.source import ModelSource

WINDOWS = torch.randint(4, VOCABULARY, (6, 16), generator=torch.Generator().manual_seed(0))
SETTINGS = {
    "dense": LevelSettings(sparsities=(0.3, 0.7), block_size=20, batch_windows=4, inputs="dense"),
    "pruned": LevelSettings(sparsities=(0.3, 0.7), block_size=20, batch_windows=4),
    "schemes": LevelSettings(schemes=("W4A16:channel", "W8A16:channel"), batch_windows=4),
}


class Source(ModelSource):
    """A model that is made where it is needed."""

    absolute = property(lambda self: self)

    def load(self, _tell=None):
        return self.name()


def llama():
    return tiny_model("llama", blocks=2).to(torch.bfloat16)


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Build a database in place, or by ``workers``; returns its folder."""
    monkeypatch.setattr(crew, "_PAUSE", 0.001)

    def made(name, settings, workers=None, transport="shared", make=llama, **how):
        given = None if workers is None else LevelWorkers(workers, Source(make), transport)
        folder = tmp_path / name
        build_levels(find_decoder(make()), WINDOWS, folder, name="tiny", settings=settings, workers=given, **how)
        return folder

    return made


def check_same(folder, other):
    assert contents(folder) == contents(other)
    records = [read_record(place).model_dump_json(exclude={"seconds"}) for place in (folder, other)]
    assert records[0] == records[1]


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["shared", "driver"])
@pytest.mark.parametrize("kind", list(SETTINGS))
def test_any_workers_make_the_database_of_one_process(build, kind, transport):
    workers = Threads(3)
    check_same(build("workers", SETTINGS[kind], workers, transport), build("alone", SETTINGS[kind]))
    assert len(workers.tasks) == 14


@pytest.mark.slow
def test_experts_and_linears_that_no_token_reaches_are_those_of_one_process(build):
    check_same(
        build("moe", SETTINGS["dense"], Threads(), make=lambda: tiny_mixture("mixtral")),
        build("moe-alone", SETTINGS["dense"], make=lambda: tiny_mixture("mixtral")),
    )
    told, settings = [], LevelSettings(sparsities=(0.5, 0.7))
    mamba = build("mamba", settings, Threads(), make=tiny_mamba, progress=lambda event: told.append(event.message))
    check_same(mamba, build("mamba-alone", settings, make=tiny_mamba))
    assert sum("no token reached it, so it stays dense" in message for message in told) == 2


def test_what_a_lost_worker_held_is_solved_by_another(build):
    def script(count, _task):
        if count in {2, 9}:
            raise LostError("killed")

    workers = Threads(script=script)
    check_same(build("workers", SETTINGS["pruned"], workers, "driver"), build("alone", SETTINGS["pruned"]))
    assert len(workers.tasks) == 16
    assert len({worker for worker, _ in workers.tasks}) == 4


def test_what_a_worker_had_half_written_when_it_was_killed_goes(build, tmp_path):
    def leave(found):
        (tmp_path / "workers" / ".lost.safetensors.unicuco-draft-abcd_123").write_bytes(b"half")
        return found

    folder = build("workers", SETTINGS["dense"], Threads(after=leave))
    assert {path.name for path in folder.iterdir()} == {".lock", "levels.json", *contents(folder)}


@pytest.mark.slow
def test_a_build_that_was_broken_off_goes_on_with_workers_or_without(build, tmp_path):
    def script(count, _task):
        if count > 5:
            raise ZeroDivisionError

    for how in ({}, {"workers": Threads()}):
        name = f"broken-{len(how)}"
        with pytest.raises(ZeroDivisionError):
            build(name, SETTINGS["pruned"], Threads(script=script))
        assert len(read_record(tmp_path / name).linears) >= 5
        again = build(name, SETTINGS["pruned"], resume=True, **how)
        check_same(again, build(f"alone-{len(how)}", SETTINGS["pruned"]))


def test_a_linear_that_ends_every_worker_ends_the_build(build):
    def script(_count, task):
        if task[1].endswith("k_proj"):
            raise LostError("no memory")

    with pytest.raises(EvaluationError, match=r"^3 workers were lost over one linear: no memory$"):
        build("workers", SETTINGS["dense"], Threads(script=script))


def test_another_model_ends_the_build(build, monkeypatch):
    monkeypatch.setattr(Source, "load", lambda *_: tiny_model("llama", blocks=2, seed=1).to(torch.bfloat16))
    with pytest.raises(ModelMismatchError, match=r"^the level database is of the model with fingerprint .*, got "):
        build("workers", SETTINGS["dense"], Threads())


def test_a_folder_of_the_same_name_on_another_machine_is_found_out(build, tmp_path):
    def hide(found):
        (tmp_path / "workers" / found.entry.file).unlink()
        return found

    with pytest.raises(LevelsError, match=r"which a worker wrote: its machine has another folder .* driver$"):
        build("workers", SETTINGS["dense"], Threads(after=hide))


def job(name, index, work, **fields):
    return LinearJob(index, name, work, None, **fields)


def test_a_worker_stays_with_its_block_and_then_goes_where_most_is_left():
    line = BlockLine()
    line.give([job("a", 0, 1), job("b", 0, 5), job("c", 0, 3)])
    line.give([job("d", 1, 7), job("e", 1, 1)])
    taken = [line.take(None, 2)[0]]
    assert taken[0].name == "b"  # nine are left of the first block, eight of the second
    other = line.take(None, 2)[0]
    assert other.name == "d"
    line.give_back([job("f", 0, 2, losses=1)])
    for expected in ("f", "c", "a", "e"):
        taken += line.take(taken[-1], 2)
        assert taken[-1].name == expected
    line.close()
    assert line.take(None, 2) == []
