"""Two names that change places in one step, where the operating system can."""

import ctypes
import errno
import os
from pathlib import Path

__all__ = ["exchange"]

# Linux: renameat2(2), in glibc since 2.28 and in musl since 1.2.
_HERE, _EXCHANGE = -100, 2
_UNABLE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def exchange(first: Path, second: Path) -> bool:
    """Let two existing names change places at once, so that no reader and no kill finds one of them missing.

    Returns:
        Whether it was done; False where the system or this file system does not know how.

    Raises:
        OSError: If the system knows how and refuses.
    """
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if swap is None:
        return False
    if swap(_HERE, os.fsencode(first), _HERE, os.fsencode(second), ctypes.c_uint(_EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNABLE:
        return False
    raise OSError(code, os.strerror(code), str(first))
