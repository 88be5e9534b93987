"""The files of a journal: the lock, the database, and what SQLite keeps beside it. No other file is ever touched."""

import contextlib
import json
import os
import shutil
import sqlite3
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from unicuco_plugin.errors import JournalError
from unicuco_plugin.files.draft import sync_folder
from unicuco_plugin.files.lock import HeldError, take_lock
from unicuco_plugin.files.received import open_regular

__all__ = ["clear", "create", "find", "hold", "reporting"]

# https://sqlite.org/fileformat.html: how a database begins, and where it says whose it is; logs and their byte orders.
_DATABASE, _OWNER = b"SQLite format 3\0", slice(68, 72)
_LOGS = {"-wal": (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83"), "-journal": (b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7",)}
_INDEX = "-shm"
_HEAD = 100
# Bytes that a transaction takes at least: a page in the log, and the log's index.
_TRANSACTION = 2**16


@contextlib.contextmanager
def reporting(path: Path) -> Iterator[None]:
    """Turn what SQLite, JSON and the operating system raise into a ``JournalError`` that names the journal."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if _is_full(path.parent):
            raise JournalError(
                f"journal {path} cannot be written: the disk is full; make room and continue with --resume"
            ) from error
        raise JournalError(f"journal {path} is damaged or not usable: {error}") from error
    except (sqlite3.Error, struct.error, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise JournalError(f"journal {path} is damaged or not usable: {error}") from error
    except OSError as error:
        raise JournalError(f"journal {path} cannot be opened: {error}") from error


def hold(path: Path) -> IO[bytes]:
    """Lock a journal for this process, by ``<path>.lock``; closing what is returned frees it.

    Raises:
        JournalError: If another process (or this one) holds it, or the lock is no regular file.
        OSError: If the lock cannot be opened; a link is not followed.
    """
    # A file of its own: SQLite takes and drops POSIX locks on the database itself, which would drop ours.
    try:
        return take_lock(_beside(path, ".lock"))
    except HeldError as error:
        raise JournalError(f"journal {path} is in use by another process; wait for it or stop it") from error


def find(path: Path) -> bool:
    """Whether there is a file to read as a journal.

    Raises:
        JournalError: If it, or what SQLite would read beside it, is a link, a folder, a pipe or the like.
    """
    for file in (path, *(_beside(path, suffix) for suffix in (*_LOGS, _INDEX))):
        if _there(file) and not _regular(file):
            raise JournalError(f"journal {path} cannot be opened: {file} must be a regular file")
    return _there(path)


def clear(path: Path, application: int) -> None:
    """Remove a journal and what SQLite left beside it, or beside one that is gone; SQLite would replay an old log.

    Args:
        path: The journal, held by :func:`hold`.
        application: Who wrote it, as the database says.

    Raises:
        JournalError: If one of the files is not a journal's; then none is removed.
        OSError: If a file cannot be read or removed.
    """
    held = _there(path)
    if held:
        head = _head(path)
        if not head.startswith(_DATABASE) or head[_OWNER] != application.to_bytes(4, "big"):
            raise JournalError(
                f"{path} is not a journal of unicuco-plugin; it will not be replaced; move it away or choose another "
                "output"
            )
    leftovers = [_beside(path, suffix) for suffix in _LOGS if _is_log(path, suffix)]
    index = _beside(path, _INDEX)
    if _there(index):  # it has no mark of its own: there is one where there is a log
        if not _regular(index) or not (held or _beside(path, "-wal") in leftovers):
            raise _foreign(path, index)
        leftovers.append(index)
    for file in (*([path] if held else []), *leftovers):
        file.unlink()


def create(path: Path, fill: Callable[[sqlite3.Connection], None]) -> None:
    """Make a database whole under another name and rename it, so that a kill leaves no half journal.

    Raises:
        OSError: If it cannot be written.
        sqlite3.Error: If it cannot be written.
    """
    draft = _beside(path, ".partial")
    for leftover in (draft, _beside(draft, "-journal")):
        leftover.unlink(missing_ok=True)
    # Exclusively: what somebody puts there meanwhile, a link for instance, is not written through.
    os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
    with contextlib.closing(sqlite3.connect(draft)) as connection, connection:
        fill(connection)
    draft.replace(path)
    sync_folder(path.parent)


def _is_full(folder: Path) -> bool:
    """Whether a disk has no room for a transaction; SQLite often says no more than that there was an I/O error."""
    return folder.is_dir() and shutil.disk_usage(folder).free < _TRANSACTION


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _there(file: Path) -> bool:
    """Whether there is anything of that name, a link to nowhere included."""
    return os.path.lexists(file)


def _regular(file: Path) -> bool:
    return stat.S_ISREG(file.lstat().st_mode)


def _head(file: Path) -> bytes:
    """The first bytes of a regular file; none of anything else."""
    if not _regular(file):
        return b""
    with open_regular(file, follow=False) as opened:
        return opened.read(_HEAD)


def _is_log(path: Path, suffix: str) -> bool:
    file = _beside(path, suffix)
    if not _there(file):
        return False
    head = _head(file)
    if not (head.startswith(_LOGS[suffix]) or (_regular(file) and not head)):
        raise _foreign(path, file)
    return True


def _foreign(path: Path, file: Path) -> JournalError:
    return JournalError(
        f"{file} is not what SQLite leaves beside journal {path.name}; it will not be removed; move it away or choose "
        "another output"
    )
