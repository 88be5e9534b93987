"""A lock that nobody's file pays for."""

import os

import pytest

from unicuco_plugin.files.lock import HeldError, take_lock


def test_a_lock_is_held_until_it_is_closed(tmp_path):
    with take_lock(tmp_path / "lock"), pytest.raises(HeldError, match="is held by another process"):
        take_lock(tmp_path / "lock")
    take_lock(tmp_path / "lock").close()


def test_what_is_in_the_file_stays(tmp_path):
    (tmp_path / "lock").write_bytes(b"precious")
    take_lock(tmp_path / "lock").close()
    assert (tmp_path / "lock").read_bytes() == b"precious"


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "lock").symlink_to("elsewhere")
    with pytest.raises(OSError, match="must be a file of its own, got a link; remove it"):
        take_lock(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_without_waiting(make, tmp_path):
    make(tmp_path / "lock")
    with pytest.raises(OSError, match=r"must be a regular file|Is a directory"):
        take_lock(tmp_path / "lock")
