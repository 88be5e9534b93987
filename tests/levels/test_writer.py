"""Levels are packed and written while the next linear is solved; what fails or is interrupted there."""

import threading

import pytest
from broken_builds import breaking_after, contents

from unicuco_plugin.errors import LevelsError
from unicuco_plugin.levels import kinds
from unicuco_plugin.levels import linear as store
from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.record import read_record
from unicuco_plugin.levels.writer import Writer


@pytest.fixture
def solving(monkeypatch):
    """Names each linear that is solved, and calls what a test puts into ``then`` when it is."""

    class Solving:
        count = 0
        then = staticmethod(lambda _: None)

    solve = kinds.solve_levels

    def counted(*given, **named):
        Solving.count += 1
        Solving.then(Solving.count)
        return solve(*given, **named)

    monkeypatch.setattr(kinds, "solve_levels", counted)
    return Solving


def test_a_linear_is_written_while_the_next_is_solved(*, solving, monkeypatch, decoder, windows, settings, tmp_path):
    begun, write, waited = threading.Event(), store.store_tensors, []
    solving.then = lambda count: begun.set() if count == 2 else None

    def writing(*given, **named):
        waited.append(begun.wait(60))
        return write(*given, **named)

    monkeypatch.setattr(store, "store_tensors", writing)
    levels = build_levels(decoder, windows, tmp_path / "db", name="tiny", settings=settings)
    assert waited == [True] * 14
    levels.verify()


def test_a_write_that_fails_ends_the_build_before_another_is_solved(
    *, solving, monkeypatch, decoder, windows, settings, tmp_path
):
    def failing(*_, **__):
        raise LevelsError("the disk is full")

    monkeypatch.setattr(store, "store_tensors", failing)
    with pytest.raises(LevelsError, match="the disk is full"):
        build_levels(decoder, windows, tmp_path / "db", name="tiny", settings=settings)
    assert solving.count <= 2


def test_what_was_being_written_at_ctrl_c_is_there_and_the_build_goes_on(
    *, solving, monkeypatch, decoder, levels, windows, settings, tmp_path
):
    pressed, write = threading.Event(), store.store_tensors

    def writing(*given, **named):
        assert pressed.wait(60)
        return write(*given, **named)

    def press(count):
        if count == 2:
            pressed.set()
            raise KeyboardInterrupt

    arguments = {"name": "tiny", "settings": settings}
    with monkeypatch.context() as patch:
        patch.setattr(store, "store_tensors", writing)
        solving.then = press
        with pytest.raises(KeyboardInterrupt):
            build_levels(decoder, windows, tmp_path / "db", **arguments)
    assert len(read_record(tmp_path / "db").linears) == 1
    solving.then = lambda _: None
    written = breaking_after(monkeypatch, 99)
    again = build_levels(decoder, windows, tmp_path / "db", **arguments, resume=True)
    assert len(written) == 13
    assert contents(again.folder) == contents(levels.folder)


def test_one_job_at_a_time_and_what_it_raises_is_raised_once():
    running, most = [], []

    def job():
        running.append(1)
        most.append(len(running))
        running.pop()

    def broken():
        raise ZeroDivisionError

    with Writer() as writer:
        for _ in range(5):
            writer.put(job)
        writer.put(broken)
        with pytest.raises(ZeroDivisionError):
            writer.put(job)
        writer.look()
        writer.put(broken)
        with pytest.raises(ZeroDivisionError):
            writer.wait()
    assert most == [1] * 5


def test_what_the_last_job_raises_is_raised_at_the_end_unless_something_else_is():
    def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Writer() as writer:
        writer.put(broken)
    with pytest.raises(KeyboardInterrupt), Writer() as writer:
        writer.put(broken)
        raise KeyboardInterrupt
