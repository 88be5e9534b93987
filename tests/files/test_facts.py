import json
import os
import time

import pytest

from unicuco_plugin.files import facts
from unicuco_plugin.files.facts import FileFacts


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file that was written a while ago; facts about it are kept in a folder of the test's."""
    monkeypatch.setattr(facts, "cache_folder", lambda: tmp_path / "cache")
    (tmp_path / "weights").write_bytes(b"12345678")
    _age(tmp_path / "weights")
    return tmp_path / "weights"


def _age(path):
    long_ago = time.time_ns() - 10**10
    os.utime(path, ns=(long_ago, long_ago))


def test_what_is_kept_is_known_to_the_next_reader_and_adds_up(file):
    FileFacts(file).keep({"a": "1"})
    FileFacts(file).keep({"b": "2"})
    found = FileFacts(file)
    assert (found.get("a"), found.get("b"), found.get("c")) == ("1", "2", None)


def test_a_link_is_the_file_that_it_leads_to(file, tmp_path):
    (tmp_path / "link").symlink_to(file)
    FileFacts(tmp_path / "link").keep({"a": "1"})
    assert FileFacts(file).get("a") == "1"


def test_nothing_is_known_of_a_file_that_was_written_to_even_if_its_time_is_put_back(file):
    FileFacts(file).keep({"a": "1"})
    before = file.stat()
    file.write_bytes(b"87654321")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert FileFacts(file).get("a") is None


def test_nothing_is_known_of_another_file_of_the_same_name(file, tmp_path):
    FileFacts(file).keep({"a": "1"})
    (tmp_path / "other").write_bytes(b"87654321")
    (tmp_path / "other").replace(file)
    assert FileFacts(file).get("a") is None


def test_what_changed_while_it_was_read_is_not_kept(file):
    found = FileFacts(file)
    file.write_bytes(b"87654321")
    _age(file)
    found.keep({"a": "1"})
    assert FileFacts(file).get("a") is None


def test_a_file_just_written_is_not_remembered(file):
    file.write_bytes(b"87654321")
    FileFacts(file).keep({"a": "1"})
    assert FileFacts(file).get("a") is None


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"file": 1}', b"\xff" * 20, b'{"file": ["x"], "facts": {"a": "9"}}'])
def test_a_damaged_store_knows_nothing(file, damage, tmp_path):
    FileFacts(file).keep({"a": "1"})
    (store,) = (tmp_path / "cache").rglob("*.json")
    store.write_bytes(damage)
    assert FileFacts(file).get("a") is None


@pytest.mark.parametrize("change", [{"facts": []}, {"facts": None}, {"schema": 0}, {"schema": None}])
def test_a_store_of_another_form_knows_nothing(file, change, tmp_path):
    FileFacts(file).keep({"a": "1"})
    (store,) = (tmp_path / "cache").rglob("*.json")
    store.write_text(json.dumps(json.loads(store.read_bytes()) | change), encoding="utf8")
    assert FileFacts(file).get("a") is None


def test_nothing_is_known_where_there_is_no_cache_folder(file, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(facts, "cache_folder", homeless)
    FileFacts(file).keep({"a": "1"})
    assert FileFacts(file).get("a") is None


def test_a_file_that_is_gone_and_a_folder_that_cannot_be_written_are_no_errors(file, tmp_path, monkeypatch):
    assert FileFacts(tmp_path / "none").get("a") is None
    FileFacts(tmp_path / "none").keep({"a": "1"})
    monkeypatch.setattr(facts, "cache_folder", lambda: file)
    FileFacts(file).keep({"a": "1"})
