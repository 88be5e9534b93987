"""A level database, opened for reading, and how large one will be."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch

from unicuco_plugin.errors import LevelsError, ModelMismatchError, quoted
from unicuco_plugin.levels.decoded import DecodedLevels
from unicuco_plugin.levels.linear import LinearLevels, check_contents, check_file
from unicuco_plugin.levels.record import RECORD, LevelsRecord, read_record

__all__ = ["Levels", "predict_bytes"]

# A file's header: one entry of at most about 90 bytes for each tensor, padded.
_HEADER = 256
_HEADER_LEVEL = 200


class Levels:
    """A complete level database, opened for reading.

    Attributes:
        folder: Where it is.
        record: How it was made.
        decoded: Weights that were read, for code that stitches from it.
    """

    def __init__(self, folder: Path, record: LevelsRecord) -> None:
        self.folder = folder
        self.record = record
        self.decoded = DecodedLevels()
        self._linears: dict[str, LinearLevels] = {}

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a database; this checks the sizes of its files, not their content (see :meth:`verify`).

        Raises:
            LevelsError: If it is missing, unfinished, of another schema, or a file is missing or truncated.
        """
        folder = Path(folder).expanduser()
        record = read_record(folder)
        if not record.complete:
            raise LevelsError(
                f"level database {folder} is unfinished: {len(record.linears)} of {len(record.expected)} linears; "
                "build it with --resume"
            )
        for entry in record.linears.values():
            check_file(folder, entry, content=False)
        return cls(folder, record)

    @property
    def sparsities(self) -> tuple[float, ...]:
        """The ladder; its first entry is level 1."""
        return self.record.settings.sparsities

    @property
    def sizes(self) -> dict[str, int]:
        """Weights of every linear, in the order of the model."""
        shapes = {name: self.record.linears[name].shape for name in self.record.expected}
        return {name: rows * columns for name, (rows, columns) in shapes.items()}

    @property
    def weight_bytes(self) -> int:
        """Bytes of one dense weight."""
        dtype: torch.dtype = getattr(torch, self.record.dtype)
        return dtype.itemsize

    @property
    def bytes(self) -> int:
        """Bytes on disk, ``levels.json`` included."""
        return sum(entry.bytes for entry in self.record.linears.values()) + (self.folder / RECORD).stat().st_size

    def linear(self, name: str) -> LinearLevels:
        """Return the levels of one linear by its full module name.

        Raises:
            LevelsError: If the database has no such linear, or its file is damaged.
        """
        if name not in self._linears:
            entry = self.record.linears.get(name)
            if entry is None:
                raise LevelsError(f"level database {self.folder} has no linear {quoted(name)}")
            self._linears[name] = LinearLevels.open(self.folder / entry.file, entry.shape, len(self.sparsities))
        return self._linears[name]

    def verify(self) -> None:
        """Compare every file with its checksum.

        Raises:
            LevelsError: If one was edited.
        """
        for _, error in check_contents(self.folder, self.record.linears):
            if error is not None:
                raise error

    def check_model(self, fingerprint: str) -> None:
        """Refuse any model but the one that the database was built from.

        Raises:
            ModelMismatchError: If the fingerprints differ.
        """
        if fingerprint != self.record.model.fingerprint:
            raise ModelMismatchError(
                f"level database {self.folder} is for {self.record.model.name} "
                f"({self.record.model.fingerprint}), got a model with fingerprint {fingerprint}; build one for it: "
                "unicuco levels build"
            )


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
