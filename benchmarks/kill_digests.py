"""What two runs of a command must have in common: everything but seconds, dates, and how the run was called.

Left out are, of a profile, in its ``provenance``: ``seconds``, ``evaluation_seconds``, ``command`` (``--resume`` is
in it) and ``resumed``, and so the record's own digest; of a level database ``seconds`` and the digest; of a benchmark
``date``, ``machine``, every ``…seconds``, and all but the names of ``results.md`` and the picture of seconds; of
journals ``seconds``, digests of rows, and SQLite's own layout: rows are compared. Everything else is compared by
content.
"""

import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

__all__ = ["Digest", "benchmark_of", "content_of", "files_of", "profile_of"]

Digest = dict[str, str]
_NOT_SAME = {"seconds", "evaluation_seconds", "command", "resumed", "digest", "date", "machine"}
# They show seconds.
_TIMED = {"results.md", "requests.png"}


def content_of(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files_of(path: Path) -> Digest:
    """A file, or every file, link and folder under one, by content."""
    return _walk(path, content_of)


def profile_of(path: Path) -> Digest:
    """A profile, a level database, or whatever else tells its seconds in JSON."""
    return _walk(path, _meaning_of)


def benchmark_of(path: Path) -> Digest:
    """A benchmark's folder with its journals."""
    return _walk(path, lambda file: "there" if file.name in _TIMED else _meaning_of(file))


def _walk(path: Path, digest: Callable[[Path], str]) -> Digest:
    if not path.is_dir():
        return {"": digest(path)} if path.exists() else {}
    return {
        file.relative_to(path).as_posix(): "folder" if file.is_dir() else digest(file)
        for file in sorted(path.rglob("*"))
    }


def _meaning_of(path: Path) -> str:
    if path.suffix == ".json":
        data: Any = _without(json.loads(path.read_text(encoding="utf8")))
    elif path.suffix == ".sqlite":
        data = _rows(path)
    else:
        return content_of(path)
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _without(data: Any) -> Any:
    """The same without what differs from run to run."""
    if isinstance(data, dict):
        return {k: _without(v) for k, v in data.items() if k not in _NOT_SAME and not k.endswith("_seconds")}
    return [_without(value) for value in data] if isinstance(data, list) else data


def _rows(path: Path) -> Any:
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
        query = "SELECT key, fidelity, value, per_window, tokens FROM measurements ORDER BY number"
        measured = [
            [value.hex() if isinstance(value, bytes) else value for value in row] for row in connection.execute(query)
        ]
        notes = connection.execute("SELECT name, value FROM notes ORDER BY name").fetchall()
    return [measured, [[name, _without(json.loads(value))] for name, value in notes]]
