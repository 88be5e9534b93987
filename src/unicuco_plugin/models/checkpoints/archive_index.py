"""What an archive says of its files: where they go, and which of their bytes are numbers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, ValidationError, field_validator, model_validator

from unicuco_plugin.errors import ArchiveError, ExportError, explain, quoted
from unicuco_plugin.files.names import check_relative_name
from unicuco_plugin.files.received import LARGEST_HEADER, open_regular, parse_json
from unicuco_plugin.frozen import Frozen
from unicuco_plugin.ownership import MARKER

__all__ = ["ArchiveIndex", "ArchivedFile", "build_index"]

# Bytes of one number of each safetensors type; of the types of fewer than eight bits no number has bytes of its own.
_WIDTHS = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
# Bytes before a safetensors header: its length, little-endian.
_LENGTH = 8
_MOST_FILES = 100_000

Width = Literal[0, 1, 2, 4, 8]


class ArchivedFile(Frozen):
    """One file.

    Attributes:
        path: Relative to the folder, with ``/``.
        size: Its bytes.
        parts: (bytes of a number, bytes) of each part, from front to back; 0 where the bytes are no numbers.
    """

    path: str
    size: NonNegativeInt
    parts: tuple[tuple[Width, NonNegativeInt], ...]

    @field_validator("path")
    @classmethod
    def _check_path(cls, value: str) -> str:
        return _check_relative(value)

    @model_validator(mode="after")
    def _check_sum(self) -> Self:
        if sum(size for _, size in self.parts) != self.size:
            raise ValueError(f"parts of {quoted(self.path)} must sum to {self.size} bytes")
        if any(width and size % width for width, size in self.parts):
            raise ValueError(f"parts of {quoted(self.path)} must be whole numbers")
        return self

    def chunks(self, numbers: int) -> Iterator[tuple[int, int]]:
        """(bytes of a number, bytes) of each piece of at most so many numbers."""
        for width, size in self.parts:
            most = numbers * max(width, 1)
            yield from ((width, min(most, size - start)) for start in range(0, size, most))


class ArchiveIndex(Frozen):
    """All files of an archive, in the order in which they follow."""

    files: tuple[ArchivedFile, ...] = Field(min_length=1, max_length=_MOST_FILES)
    empty_folders: tuple[str, ...] = Field(default=(), max_length=_MOST_FILES)

    @field_validator("empty_folders")
    @classmethod
    def _check_folders(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_check_relative(name) for name in value)

    @field_validator("files")
    @classmethod
    def _check_names(cls, value: tuple[ArchivedFile, ...]) -> tuple[ArchivedFile, ...]:
        if len({file.path for file in value}) < len(value):
            raise ValueError("files must have distinct paths")
        return value

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Read the JSON back.

        Raises:
            ArchiveError: If it is no index, or a file would lie outside the folder.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise ArchiveError(f"its index is wrong: {explain(error)}") from error


def build_index(folder: Path) -> ArchiveIndex:
    """Look at every file of a checkpoint folder.

    Raises:
        ExportError: If it is no folder, holds no ``*.safetensors``, or something that is neither file nor folder.
    """
    try:
        if not folder.is_dir():
            raise ExportError(f"{folder}: no such checkpoint folder")
        # The marker is about a place, not about what lies there; unpacking makes one of its own.
        paths = sorted(path for path in folder.rglob("*") if path != folder / MARKER)
        if not any(path.suffix == ".safetensors" for path in paths):
            raise ExportError(f"{folder}: not a checkpoint: it holds no *.safetensors")
        files, empty = [], []
        for path in paths:
            name = path.relative_to(folder).as_posix()
            if path.is_dir() and not path.is_symlink():
                empty += [] if any(path.iterdir()) else [name]
            elif path.is_file():
                parts = _numbers(path) if path.suffix == ".safetensors" else None
                size = path.stat().st_size
                files.append(ArchivedFile(path=name, size=size, parts=parts or ((0, size),)))
            else:
                raise ExportError(f"{path}: neither a file nor a folder; it cannot be packed")
        return ArchiveIndex(files=tuple(files), empty_folders=tuple(empty))
    except ValidationError as error:
        raise ExportError(f"{folder}: cannot be packed: {explain(error)}") from error
    except OSError as error:
        raise ExportError(f"{folder}: cannot be read: {error}") from error


def _numbers(path: Path) -> tuple[tuple[Width, int], ...] | None:
    """The parts of a safetensors file, header first; None for a file that only bears the name."""
    with open_regular(path) as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        rest = path.stat().st_size - _LENGTH - length
        if rest < 0 or length > LARGEST_HEADER:
            return None
        try:
            header = parse_json(file.read(length))
            tensors = [
                (*entry["data_offsets"], _WIDTHS.get(entry["dtype"], 0))
                for name, entry in header.items()
                if name != "__metadata__"
            ]
            return _split(length, rest, sorted(tensors))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None


def _split(length: int, rest: int, tensors: list[tuple[int, int, Width]]) -> tuple[tuple[Width, int], ...] | None:
    parts: list[tuple[Width, int]] = [(0, _LENGTH + length)]
    at = 0
    for start, end, width in tensors:
        if not (isinstance(start, int) and isinstance(end, int) and at <= start <= end <= rest):
            return None
        whole: Width = 0 if width and (end - start) % width else width
        parts += [(0, start - at), (whole, end - start)]
        at = end
    return tuple(part for part in [*parts, (0, rest - at)] if part[1])


def _check_relative(value: str) -> str:
    if value == MARKER:
        raise ValueError(f"path must not be {MARKER}, which unpacking writes itself")
    return check_relative_name(value)
