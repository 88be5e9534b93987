"""Reading what may be untrusted: only regular files, bounded before they are read, without waiting."""

import errno
import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

__all__ = [
    "DOCUMENT",
    "LARGEST_ELEMENTS",
    "LARGEST_HEADER",
    "check_tensors",
    "open_regular",
    "parse_json",
    "read_bytes",
    "read_text",
]

# Largest JSON document or text file, in bytes: a record of twenty thousand linears has six million.
DOCUMENT = 2**25
# Most commas and opening brackets of a JSON document. The worst of them costs Python about seventy bytes.
LARGEST_ELEMENTS = 4_000_000
# Largest header of a safetensors file, in bytes: a hundred thousand tensors have ten million.
LARGEST_HEADER = 2**24


def open_regular(path: Path, *, largest: int | None = None, follow: bool = True) -> BufferedReader:
    """Open a file for reading if it is a regular one: never a device, a pipe or a folder.

    Args:
        path: The file.
        largest: Most bytes that it may have.
        follow: Whether ``path`` itself may be a link; names that a received record gives may not.

    Raises:
        OSError: If it cannot be opened, is something else, or is larger; the message has no path.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise OSError("must be a file of its own, got a link") from error
        raise OSError(error.strerror or str(error)) from error
    except ValueError as error:  # a NUL in its name
        raise OSError(str(error)) from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"must be a regular file, got {_kind(found.st_mode)}")
        if largest is not None and found.st_size > largest:
            raise OSError(f"must have at most {largest:,} bytes, got {found.st_size:,}")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path, *, largest: int, follow: bool = True) -> bytes:
    """Read a whole file of at most ``largest`` bytes.

    Raises:
        OSError: See :func:`open_regular`; also if it grows while it is read.
    """
    with open_regular(path, largest=largest, follow=follow) as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise OSError(f"must have at most {largest:,} bytes, got more")
    return data


def read_text(path: Path, *, largest: int = DOCUMENT, follow: bool = True) -> str:
    """Read a whole UTF-8 file.

    Raises:
        OSError: See :func:`read_bytes`.
        UnicodeDecodeError: If it is not UTF-8.
    """
    return read_bytes(path, largest=largest, follow=follow).decode("utf8")


def check_tensors(path: Path, *, follow: bool = True) -> None:
    """Look at a safetensors file before its library maps it: a regular file whose header is no giant.

    Raises:
        OSError: If it is not.
    """
    with open_regular(path, follow=follow) as file:
        length = int.from_bytes(file.read(8), "little")
    if length > LARGEST_HEADER:
        raise OSError(f"must have a header of at most {LARGEST_HEADER:,} bytes, got {length:,}")


def parse_json(text: str | bytes, *, infinite: bool = False) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Parse JSON that a stranger wrote: not nested without end, no crowd of empty elements, no endless number.

    Args:
        text: The whole document.
        infinite: Whether ``Infinity`` and ``NaN`` pass as Python writes them: older configurations hold such limits.

    Raises:
        ValueError: If it is no JSON, or one of these; the message is one short line.
    """
    commas, brackets, braces = (b",", b"[", b"{") if isinstance(text, bytes) else (",", "[", "{")
    elements = text.count(commas) + text.count(brackets) + text.count(braces)  # type: ignore[arg-type]
    if elements > LARGEST_ELEMENTS:
        raise ValueError(f"must have at most {LARGEST_ELEMENTS:,} elements, got about {elements:,}")
    try:
        return json.loads(text, parse_constant=float if infinite else _refuse)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def _refuse(constant: str) -> float:
    raise ValueError(f"holds {constant}, which is not JSON")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
