"""The tables of a journal, and a digest of every row, which reveals a flipped bit.

A row's digest is over all its other fields, each with its kind and its length before it, so that no two rows have the
same bytes. Schema 1 had no digests; such a journal gets them when it is opened.
"""

import hashlib
import json
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unicuco_plugin.errors import JournalError, clip, listed, quoted

__all__ = ["APPLICATION", "bring_up", "check", "compare_header", "digest", "pack", "tables", "unpack"]

APPLICATION = 0x554E4943  # "UNIC", so that another program's database is never taken for a journal
# 2: every row has a digest. Schema 1 is brought up; older versions of the package refuse 2.
_SCHEMA = 2
_COLUMNS = {
    "header": ("name", "value"),
    "measurements": ("number", "key", "fidelity", "value", "per_window", "tokens", "seconds"),
    "notes": ("name", "value"),
}
_DIGEST = "digest BLOB NOT NULL DEFAULT x''"
_TABLES = f"""
CREATE TABLE header (name TEXT PRIMARY KEY, value TEXT NOT NULL, {_DIGEST});
CREATE TABLE measurements (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    fidelity TEXT NOT NULL,
    value BLOB NOT NULL,
    per_window BLOB NOT NULL,
    tokens INTEGER NOT NULL,
    seconds BLOB NOT NULL,
    {_DIGEST},
    UNIQUE (fidelity, key)
);
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL, {_DIGEST});
"""
_FLOAT = 8  # bytes
# Bytes of one field. Notes of the largest models have some megabytes.
_LARGEST = 2**28
# Rows are counted from 1; no journal has this many, and beyond it a number is no longer exact as a float.
_MOST_ROWS = 2**53
# Arguments that a message names, characters of each, and how many of those before the first that differs: enough to
# see what changed.
_TOLD, _SHOWN, _BEFORE = 5, 60, 20

Field = str | bytes | int | float | None


class _Text(bytes):
    """A TEXT as it is stored: a flipped bit may leave no UTF-8, or make a BLOB of it."""


def pack(*values: float) -> bytes:
    """Floats as their eight bytes each."""
    return struct.pack(f"<{len(values)}d", *values)


def unpack(data: bytes) -> tuple[float, ...]:
    """What :func:`pack` packed."""
    return struct.unpack(f"<{len(data) // _FLOAT}d", data)


def tables(connection: sqlite3.Connection, header: Mapping[str, object]) -> None:
    """Make the tables of an empty journal."""
    connection.executescript(
        f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {_SCHEMA}; BEGIN; {_TABLES}"
    )
    rows = [(name, value, digest("header", name, value)) for name, value in _as_json(header).items()]
    connection.executemany("INSERT INTO header (name, value, digest) VALUES (?, ?, ?)", rows)


def digest(table: str, *fields: Field) -> bytes:
    """The digest of a row.

    Args:
        table: Its table.
        fields: All its fields but the digest, in the table's order.
    """
    found = hashlib.blake2b(digest_size=16, person=b"unicuco journal")
    for field in (table, *fields):
        kind, data = _encode(field)
        found.update(b"%c%d:" % (kind, len(data)) + data)
    return found.digest()


def check(connection: sqlite3.Connection, path: Path) -> int:
    """Make sure that a database is a whole journal whose schema is known, and return its schema.

    Raises:
        JournalError: If it is not.
        sqlite3.Error: If it is damaged.
    """
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST)
    connection.execute("PRAGMA trusted_schema = OFF")
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
        raise JournalError(f"journal {path} is damaged or was not written by unicuco-plugin")
    schema = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if schema not in {1, _SCHEMA}:
        reason = f"a newer unicuco-plugin wrote {path}" if schema > _SCHEMA else f"{path} is damaged"
        raise JournalError(f"journal schema must be {_SCHEMA}, got {schema}: {reason}")
    # With its indices: by a wrong one a measurement would not be found.
    verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if verdict != "ok":
        raise JournalError(f"journal {path} is damaged: {clip(' '.join(str(verdict).split()), 120)}")
    held = connection.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
    if sorted(held) != [("table", name) for name in _COLUMNS]:
        raise JournalError(f"journal {path} is damaged: its tables must be {', '.join(_COLUMNS)}")
    return schema


def compare_header(connection: sqlite3.Connection, header: Mapping[str, object], path: Path, *, schema: int) -> None:
    """Make sure that the same arguments began a journal.

    Raises:
        JournalError: If they differ, naming each with both values; or a row of the header is damaged.
    """
    stored = {str(name, "utf8"): str(value, "utf8") for _, name, value in _rows(connection, "header", path, schema)}
    given = _as_json(header)
    differences = [
        f"{clip(name)} was {_from_where_they_differ(was, now)}, is now {_from_where_they_differ(now, was)}"
        for name in sorted(stored.keys() | given.keys())
        if (was := stored.get(name, "absent")) != (now := given.get(name, "absent"))
    ]
    if differences:
        told = listed(differences, _TOLD, between="; ", rest="; and {} more")
        raise JournalError(
            f"journal {path} belongs to other arguments: {told}; "
            "resume with the same arguments, or choose another output"
        )


def bring_up(connection: sqlite3.Connection, path: Path, *, schema: int) -> None:
    """Check every row of a journal against its digest; one of schema 1 gets digests, all at once or none.

    Raises:
        JournalError: If a row is damaged; the message names it.
        sqlite3.Error: If digests cannot be written.
    """
    digests = {
        table: [(digest(table, *fields), place) for place, *fields in _rows(connection, table, path, schema)]
        for table in _COLUMNS
    }
    if schema == _SCHEMA:
        return
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        for table, rows in digests.items():
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {_DIGEST}")
            connection.executemany(f"UPDATE {table} SET digest = ? WHERE rowid = ?", rows)  # noqa: S608 - ours
        connection.execute(f"PRAGMA user_version = {_SCHEMA}")


def _rows(connection: sqlite3.Connection, table: str, path: Path, schema: int) -> Iterator[tuple[Any, ...]]:
    """Every row of a table, checked: its place, and its fields as they are stored."""
    columns = ", ".join(_COLUMNS[table])
    marked = ", digest" if schema == _SCHEMA else ""
    before, connection.text_factory = connection.text_factory, _Text
    try:
        found = connection.execute(f"SELECT rowid, {columns}{marked} FROM {table} ORDER BY rowid").fetchall()  # noqa: S608
    finally:
        connection.text_factory = before
    for place, *fields in found:
        mark = fields.pop() if marked else None
        reason = _wrong(table, fields)
        if reason is None and marked and mark != digest(table, *fields):
            reason = "does not match its digest"
        if reason is not None:
            raise JournalError(
                f"journal {path}: {_name(table, place, fields)} {reason}: it was damaged or edited; restore a copy of "
                "the file, or start anew (--overwrite, or another file)"
            )
        yield place, *fields


def _wrong(table: str, fields: list[Field]) -> str | None:
    """Which rule of every row, its digest apart, a row breaks; None where it keeps all."""
    try:
        if table == "measurements":
            _check_measurement(*fields)
        else:
            _, value = map(_read_text, fields)
            json.loads(value)
    except (ValueError, RecursionError) as error:
        return f"cannot be read ({clip(str(error))})"
    return None


def _check_measurement(  # noqa: PLR0917 - its columns
    number: Field, key: Field, fidelity: Field, value: Field, per_window: Field, tokens: Field, seconds: Field
) -> None:
    _read_text(key)
    _read_text(fidelity)
    if not (isinstance(number, int) and 0 < number < _MOST_ROWS):
        raise ValueError("number must be a positive integer")
    if not (isinstance(tokens, int) and tokens >= 0):
        raise ValueError("tokens must be a non-negative integer")
    for name, data, count in (("value", value, 1), ("per_window", per_window, None), ("seconds", seconds, 1)):
        if isinstance(data, _Text) or not isinstance(data, bytes):
            raise ValueError(f"{name} must be bytes of floats")
        if len(data) % _FLOAT or count not in {None, len(data) // _FLOAT}:
            raise ValueError(f"{name} must be {'floats' if count is None else 'one float'}, got {len(data)} bytes")


def _from_where_they_differ(value: str, other: str) -> str:
    """A value that may be long, from shortly before the place where it is not the other."""
    if max(len(value), len(other)) <= _SHOWN:
        return value
    same = next(
        (place for place, (a, b) in enumerate(zip(value, other, strict=False)) if a != b), min(len(value), len(other))
    )
    start = max(0, same - _BEFORE)
    return clip(f"{'…' if start else ''}{value[start:]}", _SHOWN)


def _read_text(field: Field) -> str:
    if not isinstance(field, _Text):
        raise ValueError("a text field holds no text")
    return field.decode("utf8")


def _name(table: str, place: int, fields: list[Field]) -> str:
    if table == "measurements":
        return f"measurement {place}"
    name = fields[0].decode("utf8", "backslashreplace") if isinstance(fields[0], bytes) else fields[0]
    return f"{'note' if table == 'notes' else 'argument'} {quoted(name)}"


def _encode(field: Field) -> tuple[bytes, bytes]:
    match field:
        case str():
            return b"t", field.encode()
        case _Text():
            return b"t", field
        case bytes():
            return b"b", field
        case _:
            return b"n", repr(field).encode()


def _as_json(header: Mapping[str, object]) -> dict[str, str]:
    return {name: json.dumps(value, sort_keys=True) for name, value in header.items()}
