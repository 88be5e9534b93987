"""The journal: every measurement of a training run, on disk before anything uses it.

One SQLite file with a write-ahead log, and beside it a lock file that the operating system frees when the process ends,
however it ends. Every row has a digest, checked when the journal is opened. Floats are stored as their eight bytes:
SQLite's own REAL would lose the sign of zero and every NaN.
"""

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from unicuco_plugin.errors import JournalError, clip
from unicuco_plugin.journal.file import clear, create, find, hold, reporting
from unicuco_plugin.journal.schema import (
    APPLICATION,
    bring_up,
    check,
    compare_header,
    digest,
    pack,
    tables,
    unpack,
)

__all__ = ["Journal", "Measurement"]


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

    Every method raises a ``JournalError`` if the file cannot be read or written, or the journal is closed. Threads of
    the process that opened it may use it; they take turns.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: IO[bytes]) -> None:
        self._path = path
        self._connection = connection
        self._lock = lock
        self._turn = threading.RLock()

    @classmethod
    def open(cls, path: Path, header: Mapping[str, object], *, resume: bool, overwrite: bool = False) -> Self:
        """Create a journal, or continue one that the same arguments began.

        Args:
            path: The journal's file; its folder is made if it is missing, and ``<path>.lock`` is left beside it.
            header: The arguments that determine the run, plain JSON data; stored when the journal is created.
            resume: Continue the journal at ``path``. Where there is none a new one begins, because a run may be killed
                before its first.
            overwrite: Remove the journal at ``path`` first, once it is locked, whatever arguments began it.

        Returns:
            The open journal, held by this process alone until it is closed.

        Raises:
            JournalError: If another process (or this one) has the journal open; if it exists and neither ``resume`` nor
                ``overwrite`` is given; if its header differs, naming each field with both values; if it is damaged, in
                one of its rows for instance, not a journal, or newer; if it, or a file that SQLite keeps beside it, is
                a link, a pipe or the like; if what would be removed is no journal. Then nothing is changed.
        """
        with contextlib.ExitStack() as undo, reporting(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = undo.enter_context(hold(path))
            if overwrite or not find(path):
                clear(path, APPLICATION)
                create(path, lambda connection: tables(connection, header))
            elif not resume:
                raise JournalError(f"journal {path} exists: pass --resume to continue it, or choose another output")
            connection = sqlite3.connect(path, check_same_thread=False)
            undo.callback(connection.close)
            schema = check(connection, path)
            compare_header(connection, header, path, schema=schema)
            bring_up(connection, path, schema=schema)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # WAL's default may lose the last commits with the power
            undo.pop_all()
        return cls(path, connection, lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and free the lock; closing twice does nothing."""
        with self._turn:
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
        with self._using():
            try:
                with self._connection:
                    self._connection.execute("BEGIN IMMEDIATE")
                    query = "SELECT coalesce(max(number), 0) FROM measurements"
                    first = self._connection.execute(query).fetchone()[0] + 1
                    packed = [_fields(number, row) for number, row in enumerate(rows, start=first)]
                    self._connection.executemany(
                        "INSERT INTO measurements (number, key, fidelity, value, per_window, tokens, seconds, digest) "
                        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                        [(*fields, digest("measurements", *fields)) for fields in packed],
                    )
            except sqlite3.IntegrityError as error:
                keys = ", ".join(f"{row.key} at {row.fidelity}" for row in rows)
                raise JournalError(f"journal {self._path} holds one of these already: {clip(keys, 120)}") from error

    def lookup(self, fidelity: str, keys: Iterable[str]) -> dict[str, Measurement]:
        """Return the measurements there are of these strategies at one fidelity, by key; the others are left out."""
        found: dict[str, Measurement] = {}
        with self._using():
            for key in keys:
                for row in self._select("WHERE fidelity = ? AND key = ?", fidelity, key):
                    found[key] = row
        return found

    def measurements(self, fidelity: str) -> list[Measurement]:
        """Return all measurements at one fidelity, in the order they were recorded."""
        with self._using():
            return list(self._select("WHERE fidelity = ? ORDER BY number", fidelity))

    def fidelities(self) -> list[str]:
        """Return every fidelity of which there are measurements, by name."""
        with self._using():
            rows = self._connection.execute("SELECT DISTINCT fidelity FROM measurements ORDER BY fidelity")
            return [row[0] for row in rows]

    def copy(self, path: Path) -> None:
        """Make a journal of the same content, unless there is a file of that name."""
        if not find(path):
            with self._using(), reporting(path):
                create(path, self._connection.backup)

    def tokens_spent(self) -> int:
        """Return the evaluation tokens of all measurements, every fidelity and every run together."""
        with self._using():
            return int(self._connection.execute("SELECT coalesce(sum(tokens), 0) FROM measurements").fetchone()[0])

    def seconds_spent(self) -> float:
        """Return the wall seconds of all measurements, every fidelity and every run together."""
        with self._using():
            return sum(unpack(row[0])[0] for row in self._connection.execute("SELECT seconds FROM measurements"))

    def write_note(self, name: str, value: object) -> None:
        """Keep one event as plain JSON data under a name, on disk when this returns; a later note replaces it."""
        text = json.dumps(value, sort_keys=True)
        with self._using(), self._connection:
            mark = digest("notes", name, text)
            self._connection.execute(
                "INSERT OR REPLACE INTO notes (name, value, digest) VALUES (?, ?, ?)", (name, text, mark)
            )

    def notes(self) -> dict[str, Any]:
        """Return every note by name."""
        with self._using():
            rows = self._connection.execute("SELECT name, value FROM notes ORDER BY name").fetchall()
            return {name: json.loads(value) for name, value in rows}

    @contextlib.contextmanager
    def _using(self) -> Iterator[None]:
        with self._turn, reporting(self._path):
            yield

    def _select(self, where: str, *values: str) -> Iterator[Measurement]:
        query = f"SELECT key, fidelity, value, per_window, tokens, seconds FROM measurements {where}"  # noqa: S608 - ours
        for key, fidelity, value, per_window, tokens, seconds in self._connection.execute(query, values):
            yield Measurement(key, fidelity, unpack(value)[0], unpack(per_window), tokens, unpack(seconds)[0])


def _fields(number: int, row: Measurement) -> tuple[int, str, str, bytes, bytes, int, bytes]:
    """A row as it is stored, digest apart."""
    floats = pack(row.value), pack(*row.per_window), pack(row.seconds)
    return number, row.key, row.fidelity, floats[0], floats[1], row.tokens, floats[2]
