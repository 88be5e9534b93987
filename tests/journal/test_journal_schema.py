"""Digests of rows: a flipped bit is found, and journals without digests get them."""

import json
import sqlite3
import struct
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unicuco_plugin.errors import JournalError
from unicuco_plugin.journal.journal import Journal, Measurement
from unicuco_plugin.journal.schema import digest

HEADER = {"model": "m", "seed": 0}
ROWS = [
    Measurement("0,1", "rank", 0.25, (0.2, 0.3), 2048, 1.5),
    Measurement("1,2", "rank", -0.0, (0.1, 0.3), 2048, 0.5),
]
# What unicuco-plugin wrote at first.
SCHEMA_1 = """
CREATE TABLE header (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE measurements (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    fidelity TEXT NOT NULL,
    value BLOB NOT NULL,
    per_window BLOB NOT NULL,
    tokens INTEGER NOT NULL,
    seconds BLOB NOT NULL,
    UNIQUE (fidelity, key)
);
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL);
PRAGMA application_id = 0x554E4943; PRAGMA user_version = 1; PRAGMA journal_mode = WAL;
"""


def floats(*values):
    return struct.pack(f"<{len(values)}d", *values)


def execute(path, *statement):
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(*statement).fetchall()


@pytest.fixture
def path(tmp_path):
    """A journal with two measurements and a note."""
    path = tmp_path / "journal.sqlite"
    with Journal.open(path, HEADER, resume=False) as journal:
        journal.record(ROWS)
        journal.write_note("epoch", {"number": 3})
    return path


@pytest.fixture
def old(tmp_path):
    """The same of schema 1."""
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(SCHEMA_1)
        for name, value in HEADER.items():
            connection.execute("INSERT INTO header VALUES (?, ?)", (name, json.dumps(value)))
        for r in ROWS:
            fields = (r.key, r.fidelity, floats(r.value), floats(*r.per_window), r.tokens, floats(r.seconds))
            connection.execute("INSERT INTO measurements VALUES (NULL, ?, ?, ?, ?, ?, ?)", fields)
        connection.execute("INSERT INTO notes VALUES ('epoch', '{\"number\": 3}')")
    return path


def refusal(path, header=HEADER):
    with pytest.raises(JournalError) as caught:
        Journal.open(path, header, resume=True)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("UPDATE measurements SET key = '0,3' WHERE number = 1", "measurement 1"),
        ("UPDATE measurements SET fidelity = 'sank' WHERE number = 2", "measurement 2"),
        ("UPDATE measurements SET value = x'000000000000d03e' WHERE number = 2", "measurement 2"),
        ("UPDATE measurements SET per_window = zeroblob(24) WHERE number = 2", "measurement 2"),
        ("UPDATE measurements SET tokens = 2049 WHERE number = 1", "measurement 1"),
        ("UPDATE measurements SET seconds = x'000000000000d03e' WHERE number = 1", "measurement 1"),
        ("UPDATE measurements SET digest = x'' WHERE number = 1", "measurement 1"),
        ("UPDATE measurements SET number = 3 WHERE number = 1", "measurement 3"),
        ("UPDATE notes SET value = '{\"number\": 2}'", "note 'epoch'"),
        ("UPDATE notes SET name = 'epochs'", "note 'epochs'"),
        ("UPDATE header SET value = '1' WHERE name = 'seed'", "argument 'seed'"),
    ],
)
def test_a_changed_row_is_named_with_what_to_do(path, change, name):
    execute(path, change)
    assert refusal(path) == (
        f"journal {path}: {name} does not match its digest: it was damaged or edited; restore a copy of the file, or "
        "start anew (--overwrite, or another file)"
    )


@pytest.mark.slow
@settings(max_examples=60)  # each writes a file
@given(data=st.data())
def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("journal") / "journal.sqlite"
    with Journal.open(path, HEADER, resume=False) as journal:
        journal.record(ROWS)
        journal.write_note("epoch", {"number": 3})
    content = bytearray(path.read_bytes())
    # Most of a page is empty: half of the flips are of what is not.
    used = [place for place, byte in enumerate(content) if byte]
    place = data.draw(st.one_of(st.sampled_from(used), st.integers(0, len(content) - 1)))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        journal = Journal.open(path, HEADER, resume=True)
    except JournalError:
        return
    with journal:
        assert journal.measurements("rank") == ROWS
        assert journal.lookup("rank", ["0,1", "1,2"]) == {row.key: row for row in ROWS}
        assert journal.notes() == {"epoch": {"number": 3}}


def test_rows_that_differ_in_where_a_field_ends_or_of_which_kind_it_is_have_other_digests():
    rows = [("ab", "c"), ("a", "bc"), ("", "abc"), (b"ab", "c"), ("1",), (1,), (1.0,), (None,), ("a", "2:bc"), ("ab",)]
    assert len({digest("notes", *row) for row in rows}) == len(rows)
    assert digest("notes", "a", "b") != digest("header", "a", "b")


def test_a_journal_without_digests_gets_them_and_reads_the_same(old):
    for _ in range(2):
        with Journal.open(old, HEADER, resume=True) as journal:
            assert journal.measurements("rank") == ROWS
            assert journal.notes() == {"epoch": {"number": 3}}
    assert execute(old, "PRAGMA user_version") == [(2,)]
    with Journal.open(old, HEADER, resume=True) as journal:
        journal.record([Measurement("2,3", "rank", 1.0, (1.0,), 5, 0.1)])
    execute(old, "UPDATE measurements SET tokens = 6 WHERE number = 3")
    assert "measurement 3 does not match its digest" in refusal(old)


def test_a_journal_without_digests_of_other_arguments_is_left_as_it_was(old):
    before = old.read_bytes()
    assert "seed was 0, is now 1;" in refusal(old, HEADER | {"seed": 1})
    assert old.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE measurements SET value = x'00' WHERE number = 2", "value must be one float, got 1 bytes"),
        ("UPDATE measurements SET value = x'' WHERE number = 2", "value must be one float, got 0 bytes"),
        (
            "UPDATE measurements SET per_window = zeroblob(12) WHERE number = 2",
            "per_window must be floats, got 12 bytes",
        ),
        ("UPDATE measurements SET seconds = 'soon' WHERE number = 2", "seconds must be bytes of floats"),
        ("UPDATE measurements SET tokens = -1 WHERE number = 2", "tokens must be a non-negative integer"),
        ("UPDATE measurements SET tokens = 'few' WHERE number = 2", "tokens must be a non-negative integer"),
        ("UPDATE measurements SET tokens = 0.5 WHERE number = 2", "tokens must be a non-negative integer"),
        ("UPDATE measurements SET number = -1 WHERE number = 2", "number must be a positive integer"),
        ("UPDATE measurements SET number = 9223372036854775807 WHERE number = 2", "number must be a positive integer"),
        ("UPDATE measurements SET key = x'00' WHERE number = 2", "a text field holds no text"),
        ("UPDATE measurements SET key = CAST(x'ff' AS TEXT) WHERE number = 2", "'utf-8' codec can't decode byte 0xff"),
        ("UPDATE notes SET value = '{'", "Expecting property name"),
        ("UPDATE notes SET value = printf('%.*c', 100000, '[')", "maximum recursion depth exceeded"),
    ],
)
def test_a_row_without_a_digest_that_cannot_be_read_is_refused_by_its_rule(old, change, reason):
    execute(old, change)
    said = refusal(old)
    assert f" cannot be read ({reason}" in said
    assert "\n" not in said
    assert execute(old, "PRAGMA user_version") == [(1,)]


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TRIGGER t AFTER INSERT ON notes BEGIN DELETE FROM measurements; END",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TABLE more (x)",
        "DROP TABLE notes",
    ],
)
def test_a_journal_with_other_tables_than_ours_is_refused(path, change):
    execute(path, change)
    assert refusal(path) == f"journal {path} is damaged: its tables must be header, measurements, notes"


def test_a_row_of_more_bytes_than_any_is_refused(path, monkeypatch):
    monkeypatch.setattr("unicuco_plugin.journal.schema._LARGEST", 4000)
    execute(path, "UPDATE notes SET value = printf('%.*c', 5000, '1')")
    assert "string or blob too big" in refusal(path)
