"""A file that appears whole or not at all, and leaves nothing behind after a kill."""

import fcntl
import os
import re
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

__all__ = ["draft", "is_draft", "read_umask", "remove_drafts", "sync_folder", "write_whole"]

# What a draft's name has behind that of its file, before eight letters by ``tempfile``.
_MARK = ".unicuco-draft-"
_LETTERS = re.compile(r"[a-z0-9_]{8}")
# Bytes of the file's own name in its draft's: together they stay below the 255 that file systems take.
_LONGEST = 200
_asking = threading.Lock()


@contextmanager
def draft(target: Path) -> Iterator[IO[bytes]]:
    """A temporary file beside the target that takes its name, on disk for good, when the ``with`` ends well.

    After an error nothing is left of it and an older file of that name stays. A link of that name is replaced, never
    written through.

    Raises:
        OSError: If the disk refuses.
    """
    handle, path = _make(target)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~read_umask())
            os.fsync(file.fileno())
            path.replace(target)
        sync_folder(target.parent)
    finally:
        path.unlink(missing_ok=True)


def write_whole(target: Path, data: bytes) -> None:
    """Write a file whole or not at all, see :func:`draft`.

    Raises:
        OSError: If the disk refuses.
    """
    with draft(target) as file:
        file.write(data)


def is_draft(name: str, target: str) -> bool:
    """Whether a name is that of a draft of a file of that name."""
    start = _prefix(target)
    return name.startswith(start) and _LETTERS.fullmatch(name.removeprefix(start)) is not None


def remove_drafts(folder: Path, name: str = "") -> None:
    """Remove the drafts in a folder that killed processes left: of one file, or of all.

    Only regular files of our own user whose name is a draft's and which no process holds; whatever else bears such a
    name is left alone.
    """
    start = _prefix(name) if name else "."
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        head, mark, letters = path.name.rpartition(_MARK)
        if not mark or not _LETTERS.fullmatch(letters) or not (head + mark).startswith(start):
            continue
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                found = os.fstat(descriptor)
                if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            finally:
                os.close(descriptor)


def read_umask() -> int:
    """The rights that new files of this process do not get; temporary ones and safetensors are private.

    Asked of the kernel where it says them: reading them by setting them changes them for all threads meanwhile.
    """
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf8", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    with _asking:
        mask = os.umask(0o077)
        os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Have a folder's names reach the disk.

    Raises:
        OSError: If the disk refuses.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make(target: Path) -> tuple[int, Path]:
    """Make a draft and hold it: whoever finds one that nobody holds may remove it, even before it is held."""
    while True:
        handle, name = tempfile.mkstemp(prefix=_prefix(target.name), dir=target.parent)
        with suppress(OSError):  # a file system that has no locks, where none is removed either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.lexists(name):
            return handle, Path(name)
        os.close(handle)


def _prefix(name: str) -> str:
    return f".{name.encode('utf8')[:_LONGEST].decode('utf8', 'ignore')}{_MARK}"
