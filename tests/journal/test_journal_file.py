"""The files of a journal: which are made, replaced and removed, and that no other ever is."""

import os
import shutil
import sqlite3
from types import SimpleNamespace

import pytest

from unicuco_plugin.errors import JournalError
from unicuco_plugin.journal import file as journal_file
from unicuco_plugin.journal.journal import Journal, Measurement

HEADER = {"seed": 0}


def row(key="a"):
    return Measurement(key, "rank", 0.25, (0.2, 0.3), 2048, 1.5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "journal.sqlite"


def test_a_full_disk_is_told_as_such(path, monkeypatch):
    path.parent.mkdir()
    monkeypatch.setattr(journal_file.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    full = r"cannot be written: the disk is full; make room and continue with --resume$"
    with pytest.raises(JournalError, match=full), journal_file.reporting(path):
        raise sqlite3.OperationalError("disk I/O error")


@pytest.mark.parametrize("log", [b"", b"\x37\x7f\x06\x83" + b"\0" * 28], ids=["empty", "of other bytes"])
def test_what_sqlite_leaves_beside_a_deleted_journal_is_removed(path, log):
    path.parent.mkdir()
    for suffix, content in (("-wal", log), ("-shm", b"index"), ("-journal", bytes.fromhex("d9d505f920a163d7"))):
        path.with_name(f"{path.name}{suffix}").write_bytes(content)
    Journal.open(path, HEADER, resume=False).close()
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, f"{path.name}.lock"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("suffix", "content"),
    [("-wal", b"my thesis"), ("-shm", b""), ("-journal", b"diary")],
    ids=["log", "index", "old log"],
)
def test_a_file_that_only_has_such_a_name_is_not_removed(path, suffix, content, overwrite):
    path.parent.mkdir()
    mine = path.with_name(f"{path.name}{suffix}")
    mine.write_bytes(content)
    with pytest.raises(
        JournalError, match=f"{mine.name} is not what SQLite leaves beside journal journal.sqlite; it will"
    ):
        Journal.open(path, HEADER, resume=False, overwrite=overwrite)
    assert mine.read_bytes() == content
    assert not path.exists()


def test_overwriting_begins_anew_whatever_arguments_it_had(path):
    with Journal.open(path, HEADER, resume=False) as journal:
        journal.record([row("old")])
    with Journal.open(path, {}, resume=False, overwrite=True) as journal:
        assert journal.measurements("rank") == []
    with Journal.open(path.with_name("new"), {}, resume=False, overwrite=True) as journal:
        assert journal.measurements("rank") == []


def test_overwriting_removes_what_a_kill_left(path, tmp_path):
    with Journal.open(path, HEADER, resume=False) as journal:
        journal.record([row("old")])
        shutil.copytree(path.parent, tmp_path / "killed")
    with Journal.open(tmp_path / "killed" / path.name, HEADER, resume=False, overwrite=True) as journal:
        assert journal.measurements("rank") == []


def test_a_journal_in_use_is_not_overwritten(path):
    with Journal.open(path, HEADER, resume=False) as journal:
        journal.record([row()])
        with pytest.raises(JournalError, match="is in use by another process"):
            Journal.open(path, HEADER, resume=False, overwrite=True)
        assert journal.measurements("rank") == [row()]


@pytest.mark.parametrize(
    "content", [b"", b"my thesis", b"SQLite format 3\0" + b"\0" * 100], ids=["empty", "text", "base"]
)
def test_what_is_no_journal_is_not_overwritten(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(JournalError) as caught:
        Journal.open(path, HEADER, resume=False, overwrite=True)
    assert str(caught.value) == (
        f"{path} is not a journal of unicuco-plugin; it will not be replaced; move it away or choose another output"
    )
    assert path.read_bytes() == content


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", ".lock"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
@pytest.mark.parametrize("way", [{"resume": True}, {"resume": False}, {"resume": False, "overwrite": True}], ids=str)
def test_links_pipes_and_folders_are_refused_at_once(path, tmp_path, suffix, kind, way):
    Journal.open(path, HEADER, resume=False).close()
    mine, file = tmp_path / "mine", path.with_name(path.name + suffix)
    shutil.copy(path, mine)
    before = mine.read_bytes()
    file.unlink(missing_ok=True)
    {"link": lambda: file.symlink_to(mine), "pipe": lambda: os.mkfifo(file), "folder": file.mkdir}[kind]()
    with pytest.raises(JournalError, match=r"cannot be opened: |will not be re"):
        Journal.open(path, HEADER, **way)
    assert os.path.lexists(file)
    assert mine.read_bytes() == before


def test_a_link_named_like_a_draft_is_not_written_through(path, tmp_path):
    path.parent.mkdir()
    (tmp_path / "mine").write_bytes(b"my thesis")
    path.with_name(f"{path.name}.partial").symlink_to(tmp_path / "mine")
    Journal.open(path, HEADER, resume=False).close()
    assert (tmp_path / "mine").read_bytes() == b"my thesis"
