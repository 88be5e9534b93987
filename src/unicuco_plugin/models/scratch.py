"""Folders for what a model on disk needs beside its files: links to these, and weights that change."""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from compressed_tensors.offload.cache import DiskCache

__all__ = ["make_scratch", "remove_scratch"]

_PREFIX = "unicuco-offload-"
# Descriptors of the folders that this process holds by a lock, which ends with it.
_held: dict[str, int] = {}
# Folders removed since the last one was made.
_gone: set[Path] = set()


def make_scratch() -> str:
    """Make such a folder, not where files are in memory, and hold it; those that killed processes left are removed.

    The toolkit forgets here what it knew of files in folders that are gone.

    Raises:
        OSError: If the disk refuses.
    """
    gone = set(_gone)
    for tensor in [kept for kept, at in list(DiskCache.index.items()) if Path(at["safetensors_file"]).parent in gone]:
        del DiskCache.index[tensor]
    _gone.difference_update(gone)
    lasting = Path("/var/tmp")  # noqa: S108 - the folder in it is made by mkdtemp
    usual = "TMPDIR" in os.environ or not (lasting.is_dir() and os.access(lasting, os.W_OK))
    place = Path(tempfile.gettempdir() if usual else lasting).resolve()
    for left in place.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            _remove_left(left)
    while True:
        folder = tempfile.mkdtemp(prefix=_PREFIX, dir=place)
        with suppress(FileNotFoundError):  # another start may remove one that nobody holds yet
            descriptor = os.open(folder, os.O_RDONLY)
            with suppress(OSError):  # a file system that has no locks, where none is removed either
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.lexists(folder):
                _held[folder] = descriptor
                return folder
            os.close(descriptor)


def remove_scratch(folder: str) -> None:
    """Remove a folder of :func:`make_scratch`.

    The collector of garbage calls this at any moment, also while the toolkit goes through its index of files to save
    another model: the index is left as it is.
    """
    _gone.add(Path(folder))
    shutil.rmtree(folder, ignore_errors=True)
    if folder in _held:
        os.close(_held.pop(folder))


def _remove_left(folder: Path) -> None:
    """Remove a folder of our own user that no process holds."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
