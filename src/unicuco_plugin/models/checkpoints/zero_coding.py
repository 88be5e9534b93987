"""Numbers without their zeros: a bit for each number, and the bytes of those that are not zero.

A number is dropped if all its bits are zero. ``-0.0`` is not such a one, so what comes back is the same, bit for bit.

A chunk is coded as one byte, ``0`` and the bytes themselves, or ``1``, the count of survivors (four bytes, little
endian), the bitmap (first number in the lowest bit of the first byte) and the survivors' bytes.
"""

from typing import Protocol

import numpy as np

from unicuco_plugin.errors import ArchiveError

__all__ = ["CHUNK", "ByteSource", "decode", "encode"]

# Numbers coded together: what packing and unpacking keep in memory at once, and no tensor is too large for it.
CHUNK = 2**20
_RAW, _BITMAP = b"\x00", b"\x01"
_COUNT = 4


class ByteSource(Protocol):
    """Something that is read from front to back."""

    def read(self, size: int, /) -> bytes:
        """Exactly ``size`` bytes, or an error."""


def encode(data: bytes, width: int) -> bytes:
    """Code a chunk, in the shorter way.

    Args:
        data: At most ``CHUNK`` numbers.
        width: Bytes of a number: 1, 2, 4 or 8; 0 where the bytes are no numbers.
    """
    if not width:
        return _RAW + data
    numbers = np.frombuffer(data, dtype=f"u{width}")
    alive = numbers != 0
    count = int(np.count_nonzero(alive))
    if _COUNT + _bitmap_size(len(numbers)) + count * width >= len(data):
        return _RAW + data
    bitmap = np.packbits(alive, bitorder="little").tobytes()
    return _BITMAP + count.to_bytes(_COUNT, "little") + bitmap + numbers[alive].tobytes()


def decode(source: ByteSource, size: int, width: int) -> bytes:
    """Read one chunk back.

    Args:
        source: Where it is read from.
        size: Bytes of the chunk before it was coded.
        width: As it was for :func:`encode`.

    Raises:
        ArchiveError: If it is not a chunk of that size.
    """
    kind = source.read(1)
    if kind == _RAW:
        return source.read(size)
    if kind != _BITMAP or not width or size % width:
        raise ArchiveError(f"expected a chunk of kind 0 or 1, got {kind[0]}")
    total = size // width
    count = int.from_bytes(source.read(_COUNT), "little")
    packed = np.frombuffer(source.read(_bitmap_size(total)), dtype=np.uint8)
    alive = np.unpackbits(packed, count=total, bitorder="little").view(bool)
    if np.count_nonzero(alive) != count:
        raise ArchiveError(f"a bitmap has {np.count_nonzero(alive):,} survivors, expected {count:,}")
    numbers = np.zeros(total, dtype=f"u{width}")
    numbers[alive] = np.frombuffer(source.read(count * width), dtype=numbers.dtype)
    return numbers.tobytes()


def _bitmap_size(numbers: int) -> int:
    return -(-numbers // 8)
