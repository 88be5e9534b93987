"""What may be read: regular files of a bounded size; JSON that ends."""

import json
import math
import os

import pytest

from unicuco_plugin.files.received import (
    LARGEST_ELEMENTS,
    check_tensors,
    open_regular,
    parse_json,
    read_bytes,
    read_text,
)


def test_a_file_is_read_whole(tmp_path):
    (tmp_path / "a").write_text("grün", encoding="utf8")
    assert read_text(tmp_path / "a") == "grün"
    assert read_bytes(tmp_path / "a", largest=5) == "grün".encode()


def test_a_larger_file_than_allowed_is_refused_by_its_size_alone(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match=r"must have at most 1,000 bytes, got 1,099,511,627,776"):
        read_bytes(tmp_path / "sparse", largest=1000)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (os.mkfifo, "a pipe"),
        (os.mkdir, "a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (lambda path: path.symlink_to("/dev/null"), "a device"),
    ],
    ids=["pipe", "folder", "zero", "null"],
)
def test_what_is_no_regular_file_is_refused_without_waiting(make, what, tmp_path):
    make(tmp_path / "a")
    with pytest.raises(OSError, match=f"must be a regular file, got {what}"):
        open_regular(tmp_path / "a")


def test_a_link_is_followed_only_where_it_may_be(tmp_path):
    (tmp_path / "a").write_text("a", encoding="utf8")
    (tmp_path / "link").symlink_to("a")
    assert read_text(tmp_path / "link") == "a"
    with pytest.raises(OSError, match="must be a file of its own, got a link"):
        read_text(tmp_path / "link", follow=False)


@pytest.mark.parametrize("name", ["no", "a\0b", "x" * 300])
def test_a_file_that_cannot_be_opened_says_why(name, tmp_path):
    with pytest.raises(OSError, match=r"No such file|null byte|too long"):
        open_regular(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "is nested too deeply"),
        ('{"a": NaN}', "holds NaN, which is not JSON"),
        ("[-Infinity]", "holds -Infinity, which is not JSON"),
        ("[" + "[]," * LARGEST_ELEMENTS + "[]]", "must have at most 4,000,000 elements"),
        ("1" * 5000, "Exceeds the limit"),
        ("{", "Expecting property name"),
    ],
    ids=["nested", "nan", "infinity", "crowd", "digits", "broken"],
)
@pytest.mark.parametrize("kind", [str, str.encode])
def test_json_of_strangers_is_bounded(text, message, kind):
    with pytest.raises(ValueError, match=message):
        parse_json(kind(text))


def test_json_is_what_the_standard_library_reads():
    content = {"a": [1, 2.5, None, True, "grün"], "b": {}}
    assert parse_json(json.dumps(content)) == content


def test_a_header_of_tensors_has_a_bounded_length(tmp_path):
    (tmp_path / "a").write_bytes((2**30).to_bytes(8, "little"))
    with pytest.raises(OSError, match="must have a header of at most 16,777,216 bytes, got 1,073,741,824"):
        check_tensors(tmp_path / "a")


@pytest.mark.parametrize("text", ["[Infinity]", b"[-Infinity]", "[NaN]"])
def test_numbers_without_end_pass_where_they_are_asked_for(text):
    with pytest.raises(ValueError, match="which is not JSON"):
        parse_json(text)
    [number] = parse_json(text, infinite=True)
    assert not math.isfinite(number)
