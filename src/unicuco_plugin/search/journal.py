"""The journal: every measurement of a training run, on disk before anything uses it.

One SQLite file with a write-ahead log, and beside it a lock file that the operating system frees when the process ends,
however it ends. Floats are stored as their eight bytes: SQLite's own REAL would lose the sign of zero and every NaN.
"""

import contextlib
import fcntl
import json
import os
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from unicuco_plugin.errors import JournalError

__all__ = ["Journal", "Measurement"]

_APPLICATION = 0x554E4943  # "UNIC", so that another program's database is never taken for a journal
_SCHEMA = 1
_TABLES = """
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
"""


@dataclass(frozen=True)
class Measurement:
    """What one strategy scored at one fidelity, and what that cost.

    Attributes:
        key: The canonical identity of the strategy.
        fidelity: Which windows it was measured on.
        value: Mean divergence over the windows, nats per token.
        per_window: Divergence of each window, nats per token.
        tokens: Evaluation tokens spent.
        seconds: Wall seconds spent.
    """

    key: str
    fidelity: str
    value: float
    per_window: tuple[float, ...]
    tokens: int
    seconds: float


class Journal:
    """A durable, ordered record of measurements; made by ``Journal.open``, closed by its ``with`` block.

    Every method raises a ``JournalError`` if the file cannot be read or written, or the journal is closed. One thread
    uses it: the one that opened it.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: IO[bytes]) -> None:
        self._path = path
        self._connection = connection
        self._lock = lock

    @classmethod
    def open(cls, path: Path, header: Mapping[str, object], *, resume: bool) -> Self:
        """Create a journal, or continue one that the same arguments began.

        Args:
            path: The journal's file; its folder is made if it is missing, and ``<path>.lock`` is left beside it.
            header: The arguments that determine the run, plain JSON data; stored when the journal is created.
            resume: Continue the journal at ``path``. Where there is none a new one begins, because a run may be killed
                before its first.

        Returns:
            The open journal, held by this process alone until it is closed.

        Raises:
            JournalError: If another process (or this one) has the journal open; if it exists and ``resume`` is False;
                if its header differs, naming each field with both values; if it is damaged, not a journal, or newer.
        """
        with contextlib.ExitStack() as undo, _reporting(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = undo.enter_context(_lock(path))
            if not path.exists():
                _create(path, header)
            elif not resume:
                raise JournalError(f"journal {path} exists: pass --resume to continue it, or choose another output")
            connection = sqlite3.connect(path)
            undo.callback(connection.close)
            _check(connection, path)
            _compare(_stored_header(connection), header, path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # WAL's default may lose the last commits with the power
            undo.pop_all()
        return cls(path, connection, lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and free the lock; closing twice does nothing."""
        try:
            self._connection.close()
        finally:
            self._lock.close()

    def record(self, rows: Iterable[Measurement]) -> None:
        """Write measurements, all or none; they are on disk when this returns.

        Raises:
            JournalError: If a strategy has a measurement at that fidelity already; then none is written.
        """
        rows = list(rows)
        packed = [
            (row.key, row.fidelity, _pack(row.value), _pack(*row.per_window), row.tokens, _pack(row.seconds))
            for row in rows
        ]
        with _reporting(self._path):
            try:
                with self._connection:
                    self._connection.executemany(
                        "INSERT INTO measurements (key, fidelity, value, per_window, tokens, seconds) "
                        "VALUES (?, ?, ?, ?, ?, ?)",
                        packed,
                    )
            except sqlite3.IntegrityError as error:
                keys = ", ".join(f"{row.key} at {row.fidelity}" for row in rows)
                raise JournalError(f"journal {self._path} holds one of these already: {keys}") from error

    def lookup(self, fidelity: str, keys: Iterable[str]) -> dict[str, Measurement]:
        """Return the measurements there are of these strategies at one fidelity, by key; the others are left out."""
        found: dict[str, Measurement] = {}
        with _reporting(self._path):
            for key in keys:
                for row in self._select("WHERE fidelity = ? AND key = ?", fidelity, key):
                    found[key] = row
        return found

    def measurements(self, fidelity: str) -> list[Measurement]:
        """Return all measurements at one fidelity, in the order they were recorded."""
        with _reporting(self._path):
            return list(self._select("WHERE fidelity = ? ORDER BY number", fidelity))

    def tokens_spent(self) -> int:
        """Return the evaluation tokens of all measurements, every fidelity and every run together."""
        with _reporting(self._path):
            return int(self._connection.execute("SELECT coalesce(sum(tokens), 0) FROM measurements").fetchone()[0])

    def seconds_spent(self) -> float:
        """Return the wall seconds of all measurements, every fidelity and every run together."""
        with _reporting(self._path):
            return sum(_unpack(row[0])[0] for row in self._connection.execute("SELECT seconds FROM measurements"))

    def write_note(self, name: str, value: object) -> None:
        """Keep one event as plain JSON data under a name, on disk when this returns; a later note replaces it."""
        text = json.dumps(value, sort_keys=True)
        with _reporting(self._path), self._connection:
            self._connection.execute("INSERT OR REPLACE INTO notes (name, value) VALUES (?, ?)", (name, text))

    def notes(self) -> dict[str, Any]:
        """Return every note by name."""
        with _reporting(self._path):
            rows = self._connection.execute("SELECT name, value FROM notes ORDER BY name").fetchall()
            return {name: json.loads(value) for name, value in rows}

    def _select(self, where: str, *values: str) -> Iterator[Measurement]:
        query = f"SELECT key, fidelity, value, per_window, tokens, seconds FROM measurements {where}"  # noqa: S608 - ours
        for key, fidelity, value, per_window, tokens, seconds in self._connection.execute(query, values):
            yield Measurement(key, fidelity, _unpack(value)[0], _unpack(per_window), tokens, _unpack(seconds)[0])


def _pack(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}d", *values)


def _unpack(data: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(data) // 8}d", data)


@contextlib.contextmanager
def _reporting(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, struct.error, json.JSONDecodeError) as error:
        raise JournalError(f"journal {path} is damaged or not usable: {error}") from error
    except OSError as error:
        raise JournalError(f"journal {path} cannot be opened: {error}") from error


def _lock(path: Path) -> IO[bytes]:
    # A file of its own: SQLite takes and drops POSIX locks on the database itself, which would drop ours.
    lock = path.with_name(f"{path.name}.lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise JournalError(f"journal {path} is in use by another process; wait for it or stop it") from error
    return lock


def _create(path: Path, header: Mapping[str, object]) -> None:
    # Made whole under another name, so that a kill leaves no half journal. Leftovers of a deleted journal must go too:
    # SQLite would replay an old write-ahead log into the new file.
    partial = path.with_name(f"{path.name}.partial")
    for leftover in (partial, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", ".partial-journal"))):
        leftover.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(partial)) as connection, connection:
        connection.executescript(
            f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_SCHEMA}; BEGIN; {_TABLES}"
        )
        connection.executemany("INSERT INTO header VALUES (?, ?)", _as_json(header).items())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
        raise JournalError(f"journal {path} is damaged or was not written by unicuco-plugin")
    schema = connection.execute("PRAGMA user_version").fetchone()[0]
    if schema != _SCHEMA:
        raise JournalError(f"journal schema must be {_SCHEMA}, got {schema}: a newer unicuco-plugin wrote {path}")
    verdict = connection.execute("PRAGMA quick_check").fetchone()[0]
    if verdict != "ok":
        raise JournalError(f"journal {path} is damaged: {verdict}")


def _stored_header(connection: sqlite3.Connection) -> dict[str, str]:
    return dict(connection.execute("SELECT name, value FROM header").fetchall())


def _as_json(header: Mapping[str, object]) -> dict[str, str]:
    return {name: json.dumps(value, sort_keys=True) for name, value in header.items()}


def _compare(stored: Mapping[str, str], header: Mapping[str, object], path: Path) -> None:
    given = _as_json(header)
    differences = [
        f"{name} was {stored.get(name, 'absent')}, is now {given.get(name, 'absent')}"
        for name in sorted(stored.keys() | given.keys())
        if stored.get(name) != given.get(name)
    ]
    if differences:
        raise JournalError(
            f"journal {path} belongs to other arguments: {'; '.join(differences)}; "
            "resume with the same arguments, or choose another output"
        )
