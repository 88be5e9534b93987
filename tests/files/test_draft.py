"""A file that appears whole or not at all."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from unicuco_plugin.files.draft import draft, is_draft, read_umask, remove_drafts, write_whole

KILLED = """
import os, signal, sys
from pathlib import Path
from unicuco_plugin.files.draft import draft
with draft(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_whole_with_the_rights_of_any_new_one(tmp_path):
    write_whole(tmp_path / "a", b"new")
    (tmp_path / "other").touch()
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert names(tmp_path) == ["a", "other"]


def test_after_an_error_the_older_file_stays_and_nothing_is_left(tmp_path):
    write_whole(tmp_path / "a", b"old")
    with pytest.raises(RuntimeError), draft(tmp_path / "a") as file:
        file.write(b"new")
        raise RuntimeError
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_link_is_replaced_and_never_written_through(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "a").symlink_to("precious")
    write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("name", ["a", "é" * 127])
def test_the_draft_of_a_killed_process_is_removed_and_one_at_work_is_not(name, tmp_path):
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / name)], check=False)
    assert run.returncode == -signal.SIGKILL
    [left] = names(tmp_path)
    assert left.startswith(f".{name}"[:50])
    with draft(tmp_path / name) as file:
        file.write(b"whole")
        remove_drafts(tmp_path, name)
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == [name]


def test_only_drafts_of_the_named_file_go(tmp_path):
    for name in (".a.unicuco-draft-12345678", ".b.unicuco-draft-12345678", ".a.unicuco-draft-toolong89", ".a.partial"):
        (tmp_path / name).touch()
    remove_drafts(tmp_path, "a")
    assert names(tmp_path) == [".a.partial", ".a.unicuco-draft-toolong89", ".b.unicuco-draft-12345678"]
    remove_drafts(tmp_path)
    assert names(tmp_path) == [".a.partial", ".a.unicuco-draft-toolong89"]
    remove_drafts(tmp_path / "no such folder")


def test_what_only_bears_the_name_of_a_draft_is_left_alone(tmp_path):
    (tmp_path / "precious").touch()
    os.mkfifo(tmp_path / ".a.unicuco-draft-pipe0000")
    (tmp_path / ".a.unicuco-draft-link0000").symlink_to("precious")
    (tmp_path / ".a.unicuco-draft-folder00").mkdir()
    os.link(tmp_path / "precious", tmp_path / ".a.unicuco-draft-twice000")
    before = names(tmp_path)
    remove_drafts(tmp_path, "a")
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "of_a"),
    [
        (".a.unicuco-draft-abcd_123", True),
        (".b.unicuco-draft-abcd_123", False),
        (".a.unicuco-draft-mine", False),
        ("a", False),
    ],
)
def test_a_draft_is_known_by_its_name(name, of_a):
    assert is_draft(name, "a") is of_a


def test_a_draft_that_another_process_removes_before_it_is_held_is_made_again(tmp_path, monkeypatch):
    mkstemp = tempfile.mkstemp

    def faster(**options):
        monkeypatch.undo()
        handle, name = mkstemp(**options)
        remove_drafts(tmp_path)
        return handle, name

    monkeypatch.setattr(tempfile, "mkstemp", faster)
    write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the kernel says no masks here")
def test_the_mask_is_read_without_setting_it(monkeypatch):
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", None)
        assert read_umask() == 0o027
    finally:
        monkeypatch.undo()
        os.umask(before)


def test_the_mask_is_read_where_the_kernel_does_not_say_it(monkeypatch):
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(Path, "read_text", lambda *_, **__: "State: R\n")
        assert [read_umask(), read_umask()] == [0o027, 0o027]
    finally:
        os.umask(before)
