"""A level database of sparsities, opened for reading, and how large one will be."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from unicuco_plugin.levels.database import Database
from unicuco_plugin.levels.linear import LinearLevels
from unicuco_plugin.levels.record import LevelsRecord

__all__ = ["Levels", "predict_bytes"]

# A file's header: one entry of at most about 90 bytes for each tensor, padded.
_HEADER = 256
_HEADER_LEVEL = 200


class Levels(Database):
    """A complete level database of sparsities, opened for reading."""

    kind: ClassVar[Literal["sparsities", "schemes"]] = "sparsities"

    def __init__(self, folder: Path, record: LevelsRecord) -> None:
        super().__init__(folder, record)
        self._linears: dict[str, LinearLevels] = {}

    @property
    def sparsities(self) -> tuple[float, ...]:
        """The ladder; its first entry is level 1."""
        return self.record.settings.sparsities

    def linear(self, name: str) -> LinearLevels:
        """Return the levels of one linear by its full module name.

        Raises:
            LevelsError: If the database has no such linear, or its file is damaged.
        """
        if name not in self._linears:
            entry = self.entry(name)
            self._linears[name] = LinearLevels.open(self.folder / entry.file, entry.shape, len(self.sparsities))
        return self._linears[name]


def predict_bytes(
    shapes: Mapping[str, tuple[int, int]], sparsities: Sequence[float], width: int, block_size: int
) -> int:
    """Predict the bytes of a database, from above and closely: SparseGPT zeroes what it must and seldom more.

    Args:
        shapes: Rows and columns of every linear.
        sparsities: The ladder.
        width: Bytes of one weight.
        block_size: Columns whose masks are chosen together.
    """
    total = 0
    for rows, columns in shapes.values():
        total += _HEADER + 4 * rows
        for sparsity in sparsities:
            blocks = [min(block_size, columns - start) * rows for start in range(0, columns, block_size)]
            survivors = sum(block - int(block * sparsity) - 1 for block in blocks)
            total += rows * -(-columns // 8) + width * survivors + 8 * rows + _HEADER_LEVEL
    return total
