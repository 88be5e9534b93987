"""What was found out about a large file, kept for as long as the file does not change."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from unicuco_plugin.files.cache import cache_folder
from unicuco_plugin.files.draft import write_whole
from unicuco_plugin.files.received import DOCUMENT, read_bytes

__all__ = ["FileFacts"]

# A file that was written so shortly before it was read may be written to again within one tick of its clock.
_SETTLED = 2e9
# Raised when what is stored, or what any fact means, changes: such as how a tensor is hashed.
_SCHEMA = 1


class FileFacts:
    """Facts about one file by name, in the user's cache folder.

    They hold for a path, a size, and the times of the last change of content and of the file itself, to the nanosecond;
    whatever else is found there counts as nothing known.

    Args:
        path: The file; links are followed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self._seen = _look(self._path)
        name = hashlib.sha256(os.fsencode(self._path)).hexdigest()[:32]
        self._store: Path | None = None
        self._known: dict[str, str] = {}
        with suppress(RuntimeError):  # there is no home
            self._store = cache_folder() / "facts" / f"{name}.json"
        if self._store is None or self._seen is None:
            return
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            stored = json.loads(read_bytes(self._store, largest=DOCUMENT))
            if stored["schema"] == _SCHEMA and stored["file"] == [str(self._path), *self._seen]:
                self._known = {str(key): str(value) for key, value in stored["facts"].items()}

    def get(self, key: str) -> str | None:
        """A fact; None where it is not known of the file as it is."""
        return self._known.get(key)

    def keep(self, facts: Mapping[str, str]) -> None:
        """Add facts, if the file is still the one that was there first. What cannot be written is not kept."""
        if not facts or self._store is None or self._seen is None or _look(self._path) != self._seen:
            return
        if time.time_ns() - self._seen[1] < _SETTLED:
            return
        self._known |= facts
        with suppress(OSError):
            self._store.parent.mkdir(parents=True, exist_ok=True)
            data = {"schema": _SCHEMA, "file": [str(self._path), *self._seen], "facts": self._known}
            write_whole(self._store, json.dumps(data).encode())


def _look(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
