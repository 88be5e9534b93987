"""Two names that change places at once."""

import ctypes

import pytest

from unicuco_plugin.files import exchange as module
from unicuco_plugin.files.exchange import exchange


def test_two_folders_change_places(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    assert exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "content").read_text() == "b"
    assert (tmp_path / "b" / "content").read_text() == "a"


def test_a_missing_name_is_an_error_and_changes_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").is_dir()


def test_a_system_that_does_not_know_how_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module.ctypes, "CDLL", lambda *_, **__: object())
    assert not exchange(tmp_path, tmp_path)


def test_a_file_system_that_does_not_know_how_says_so(tmp_path, monkeypatch):
    class Library:
        @staticmethod
        def renameat2(*_):
            ctypes.set_errno(module.errno.EINVAL)
            return -1

    monkeypatch.setattr(module.ctypes, "CDLL", lambda *_, **__: Library)
    assert not exchange(tmp_path, tmp_path)
