"""Which files of a folder are ours."""

import os
from contextlib import suppress

import pytest

from unicuco_plugin.errors import ExportError
from unicuco_plugin.ownership import (
    MARKER,
    claim,
    find_foreign,
    list_files,
    read_marker,
    remove_owned,
    write_marker,
)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "made"
    (made / "sub" / "deep").mkdir(parents=True)
    (made / "empty").mkdir()
    for name in ("a", "sub/b", "sub/deep/c"):
        (made / name).touch()
    write_marker(made, list_files(made))
    return made


def test_a_marker_lists_files_and_empty_folders(folder):
    assert read_marker(folder) == {"a", "sub/b", "sub/deep/c", "empty/"}
    assert find_foreign(folder, read_marker(folder)) == []


def test_a_folder_without_a_marker_has_none(tmp_path):
    assert read_marker(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{}", '{"schema": 1, "files": [], "digest": "0"}', "[" * 100_000])
def test_a_damaged_marker_is_refused(content, tmp_path):
    (tmp_path / MARKER).write_text(content)
    with pytest.raises(ExportError, match="marker"):
        read_marker(tmp_path)


def test_a_marker_that_is_a_link_is_refused(folder, tmp_path):
    (tmp_path / MARKER).symlink_to(folder / MARKER)
    with pytest.raises(ExportError, match="must be a file of its own, got a link"):
        read_marker(tmp_path)


def test_only_what_is_listed_is_removed(folder):
    (folder / "sub" / "mine").touch()
    assert not remove_owned(folder, read_marker(folder))
    assert list_files(folder) == {"sub/mine"}
    assert not (folder / MARKER).exists()


def test_a_folder_that_is_ours_whole_goes(folder):
    assert remove_owned(folder, read_marker(folder))
    assert not folder.exists()


def test_an_unfinished_folder_goes_whole(folder):
    write_marker(folder, ())
    assert remove_owned(folder, read_marker(folder))
    assert not folder.exists()


@pytest.mark.parametrize("name", ["../precious", "/precious", "a/../../precious", "a\0b", "", "."])
def test_a_marker_whose_names_lead_out_of_the_folder_is_refused(name, folder):
    write_marker(folder, {"a", name})
    with pytest.raises(ExportError, match="is damaged: path must"):
        read_marker(folder)


def test_nothing_is_removed_through_a_link(folder):
    precious = folder.parent / "precious"
    precious.touch()
    (folder / "link").symlink_to(folder.parent)
    remove_owned(folder, {"a", "link/precious"})
    assert precious.exists()
    assert (folder / "sub" / "b").exists()


def test_a_file_may_be_gone_from_a_folder_of_ours_and_its_folder_empty(folder):
    (folder / "sub" / "deep" / "c").unlink()
    assert find_foreign(folder, read_marker(folder)) == []


def test_files_are_claimed_before_they_are_written_and_again(tmp_path):
    claim(tmp_path, ["results.json"])
    (tmp_path / "results.json").touch()
    claim(tmp_path, ["results.json", "results.md"])
    assert read_marker(tmp_path) == {"results.json", "results.md"}


def test_a_file_of_that_name_that_we_did_not_write_is_not_claimed(tmp_path):
    (tmp_path / "results.json").touch()
    with pytest.raises(ExportError, match=r"holds results\.json, which unicuco did not write; it will not be replaced"):
        claim(tmp_path, ["results.json"])
    assert not (tmp_path / MARKER).exists()


def test_a_draft_of_the_marker_is_not_foreign_and_goes_with_the_folder(folder):
    (folder / f".{MARKER}.unicuco-draft-abcd_123").write_text("{", encoding="utf8")
    assert find_foreign(folder, read_marker(folder)) == []
    assert remove_owned(folder, list_files(folder))
    assert not folder.exists()


def test_a_link_by_a_drafts_name_is_foreign(folder):
    (folder / f".{MARKER}.unicuco-draft-abcd_123").symlink_to(folder / "a")
    assert find_foreign(folder, read_marker(folder)) == [f".{MARKER}.unicuco-draft-abcd_123"]


@pytest.mark.parametrize("unfinished", [True, False])
def test_a_removal_that_is_killed_anywhere_leaves_the_marker_to_the_end(unfinished, folder, monkeypatch):
    if unfinished:
        write_marker(folder, ())

    def dying(function):
        def die(*args, **options):
            function(*args, **options)
            raise KeyboardInterrupt

        return die

    for name in ("unlink", "rmdir"):
        monkeypatch.setattr(os, name, dying(getattr(os, name)))
    for _ in range(20):
        if (names := read_marker(folder)) is None:
            break
        with suppress(KeyboardInterrupt):
            remove_owned(folder, names)
    assert not folder.exists() or list(folder.iterdir()) == []
