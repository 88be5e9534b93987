"""A lock file, which the operating system frees when the process ends, however it ends."""

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import IO

__all__ = ["HeldError", "take_lock"]


class HeldError(OSError):
    """Another process, or this one, holds the lock."""


def take_lock(path: Path) -> IO[bytes]:
    """Hold a lock file until what is returned is closed; nothing in it is changed.

    Args:
        path: The file, made if it is missing; never followed if it is a link.

    Raises:
        HeldError: If somebody holds it.
        OSError: If it cannot be opened or is no regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(f"lock {path} must be a file of its own, got a link; remove it") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"lock {path} must be a regular file; remove what is there")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fdopen(descriptor, "r+b")
    except BlockingIOError as error:
        os.close(descriptor)
        raise HeldError(f"lock {path} is held by another process") from error
    except BaseException:
        os.close(descriptor)
        raise
