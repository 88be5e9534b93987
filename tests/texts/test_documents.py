"""Documents from files and datasets."""

import gzip
import json
import os
from pathlib import Path

import datasets
import pytest
from tiny import tiny_tokenizer

from unicuco_plugin.errors import CalibrationError
from unicuco_plugin.texts import documents
from unicuco_plugin.texts.documents import Document, read_documents


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def _texts(source, tokenizer, **options):
    return [document.text for document in read_documents(source, tokenizer, **options)]


def test_blank_lines_separate_documents(tmp_path, tokenizer):
    path = tmp_path / "a.txt"
    path.write_text("\n\nw0 w1\nw2\n\n \nw3\n")
    assert _texts(path, tokenizer) == ["w0 w1\nw2", "w3"]
    assert _texts(str(path), tokenizer, samples=1) == ["w0 w1\nw2"]


def test_json_lines_hold_text_or_messages(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    chat = {"messages": [{"role": "user", "content": "w1"}]}
    path.write_text(f"{json.dumps({'text': 'w0'})}\n\n{json.dumps(chat)}\n")
    assert list(read_documents(path, tokenizer)) == [Document("w0"), Document("<s> user w1 </s> ", templated=True)]


@pytest.mark.parametrize("kind", ["saved", "splits", "data"])
def test_dataset_folders_are_opened(kind, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    data = datasets.Dataset.from_dict({"text": ["w0", "w1", "w2"]})
    if kind == "saved":
        data.save_to_disk(folder)
    elif kind == "splits":
        datasets.DatasetDict({"train": data.select([0]), "test": data}).save_to_disk(folder)
    else:
        folder.mkdir()
        (folder / "train.jsonl").write_text('{"text": "w9"}\n')
        (folder / "test.jsonl").write_text('{"text": "w0"}\n{"text": "w1"}\n{"text": "w2"}\n')
    assert _texts(folder, tokenizer, split="test", samples=2) == ["w0", "w1"]


def test_a_name_that_datasets_cannot_open_is_one_line(tokenizer, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(CalibrationError) as caught:
        _texts("some/corpus", tokenizer)
    assert str(caught.value) == "dataset some/corpus, split train: cannot be opened: no route"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": 1}', "{path}, line 1: expected a text or messages column, got text"),
        ("[]", "{path}, line 1: expected a text or messages column, got list"),
        ('{"text": "w0"}\n{', "{path}, line 2: not JSON: "),
        ('{"messages": [3]}', "{path}, line 1: expected messages with role and content, got [3]"),
    ],
)
def test_bad_records_are_named_by_line(content, message, tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(CalibrationError) as caught:
        _texts(path, tokenizer)
    assert str(caught.value).startswith(message.format(path=path))


def test_messages_need_a_chat_template(tmp_path):
    plain = tiny_tokenizer(tmp_path / "tokenizer")
    plain.chat_template = None
    path = tmp_path / "a.jsonl"
    path.write_text('{"messages": []}')
    with pytest.raises(CalibrationError, match=r"has messages, but the model's tokenizer has no chat template$"):
        _texts(path, plain)


@pytest.mark.parametrize("name", ["missing.txt", "missing.jsonl", "./missing", "/no/such/file"])
def test_missing_files_are_named(name, tokenizer):
    with pytest.raises(CalibrationError, match=r"^calibration file .*(missing|file)\S* does not exist$"):
        _texts(name, tokenizer)


def test_other_encodings_are_refused(tmp_path, tokenizer):
    path = tmp_path / "latin.txt"
    path.write_bytes("café\n".encode("latin1"))
    with pytest.raises(CalibrationError) as caught:
        _texts(path, tokenizer)
    assert str(caught.value) == f"calibration file {path} must be UTF-8; line 1 or soon after is not"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: Path(path).symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_what_is_no_regular_file_is_refused_at_once(make, tmp_path):
    make(tmp_path / "a.txt")
    with pytest.raises(CalibrationError, match=r"a\.txt cannot be read: must be a regular file, got a (pipe|device)"):
        list(read_documents(tmp_path / "a.txt", None))


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "_LONGEST_LINE", 100)
    (tmp_path / "a.txt").write_text("x" * 100 + "\n" + "x" * 101)
    with pytest.raises(CalibrationError, match=r"a\.txt, line 2: must have at most 100 characters"):
        list(read_documents(tmp_path / "a.txt", None))


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "packed.jsonl"])
def test_files_packed_by_gzip_are_read_whatever_they_are_called(name, tmp_path, tokenizer):
    path = tmp_path / name
    text = "w0 w1\n\nw2\n" if "txt" in name else '{"text": "w0 w1"}\n{"text": "w2"}\n'
    path.write_bytes(gzip.compress(text.encode()))
    assert _texts(path, tokenizer) == ["w0 w1", "w2"]
    assert _texts(str(path), tokenizer, samples=1) == ["w0 w1"]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "no-suffix"])
def test_tables_are_read_and_not_copied_into_a_cache(name, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / name
    data = datasets.Dataset.from_dict({"text": ["w0", "w1", "w2"], "other": [1, 2, 3]})
    if name == "a.arrow":
        data.save_to_disk(tmp_path / "set")
        path = next((tmp_path / "set").glob("*.arrow"))
    else:
        data.to_parquet(path)
    assert _texts(path, tokenizer) == ["w0", "w1", "w2"]
    assert _texts(path, tokenizer, samples=2) == ["w0", "w1"]
    assert not list((tmp_path / "cache").rglob("*.arrow"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.txt.gz",
            gzip.compress(b"w0 " * 1000, mtime=0)[:-20],  # no time in it: workers must agree on a name
            r"a\.txt\.gz cannot be unpacked: .*; it is truncated or damaged$",
        ),
        ("a.txt.gz", b"\x1f\x8bnothing of the kind", r"a\.txt\.gz cannot be read: Unknown compression method$"),
        ("a.parquet", b"PAR1 nothing of the kind", r"a\.parquet cannot be read as parquet: "),
        ("a.parquet", b"w0 w1", r"a\.parquet cannot be read as parquet: "),
    ],
)
def test_damaged_files_are_named_in_one_line(name, content, message, tmp_path, tokenizer):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=message) as caught:
        _texts(path, tokenizer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.parquet"])
def test_a_small_file_that_holds_very_much_is_refused(name, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(documents, "_MOST_UNPACKED", 5_000)
    path = tmp_path / name
    if name == "a.parquet":
        datasets.Dataset.from_dict({"text": ["w0 " * 1000] * 10}).to_parquet(path)
    else:
        path.write_bytes(gzip.compress(b"w0\n\n" * 10_000))
    with pytest.raises(CalibrationError, match=r"must (unpack to|hold) at most 5,000 characters"):
        _texts(path, tokenizer)
