"""A table of times that one process at a time writes."""

import time
from pathlib import Path
from typing import IO

from unicuco_plugin.errors import DeviceTableError
from unicuco_plugin.files.lock import HeldError, take_lock

__all__ = ["check_free", "hold_table"]

_PAUSE = 0.05  # seconds between two looks


def hold_table(file: Path, seconds: float = 0.0) -> IO[bytes]:
    """Hold a table until what is returned is closed, however the process ends.

    Args:
        file: The table's; the lock is a file beside it.
        seconds: How long to wait for another process.

    Raises:
        DeviceTableError: If another process holds it, or no lock can be made.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return take_lock(_lock(file))
        except HeldError as error:
            if time.monotonic() >= end:
                raise DeviceTableError(
                    f"device table {file} is held by another process, which measures into it: wait for it, stop it, or "
                    "choose another output"
                ) from error
            time.sleep(_PAUSE)
        except OSError as error:
            raise DeviceTableError(f"device table {file} cannot be written: {error}") from error


def check_free(file: Path) -> None:
    """Refuse a table that another process holds; nothing is left behind.

    Raises:
        DeviceTableError: See :func:`hold_table`.
    """
    if _lock(file).exists():
        hold_table(file).close()


def _lock(file: Path) -> Path:
    return file.with_name(f"{file.name}.lock")
