"""A database of either kind, opened for reading: what its folder and record promise."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from unicuco_plugin.errors import LevelsError, ModelMismatchError, quoted
from unicuco_plugin.levels.decoded import DecodedLevels
from unicuco_plugin.levels.linear import check_contents, check_file
from unicuco_plugin.levels.record import RECORD, LevelsRecord, LinearEntry, read_record

__all__ = ["Database"]

_MADE_FOR = {"sparsities": "the space sparsity", "schemes": "the spaces precision and compound"}


class Database:
    """A complete database, opened for reading.

    Attributes:
        folder: Where it is.
        record: How it was made.
        kind: What its levels are.
        decoded: Weights that were read, for code that puts them into models.
    """

    kind: ClassVar[Literal["sparsities", "schemes"]]

    def __init__(self, folder: Path, record: LevelsRecord) -> None:
        self.folder = folder
        self.record = record
        self.decoded = DecodedLevels()

    @classmethod
    def open(cls, folder: str | Path, *, fingerprint: str | None = None) -> Self:
        """Open a database; this checks the sizes of its files, not their content (see :meth:`verify`).

        Args:
            folder: Where it is.
            fingerprint: Of the model that it must have been built from; the content of its files is then checked too.

        Raises:
            LevelsError: If it is missing, unfinished, of another schema or of the other kind, or a file is missing or
                truncated.
            ModelMismatchError: If it was built from another model.
        """
        folder = Path(folder).expanduser()
        record = read_record(folder)
        if record.settings.kind != cls.kind:
            raise LevelsError(
                f"level database {folder} holds {record.settings.kind}, for {_MADE_FOR[record.settings.kind]}; "
                f"{_MADE_FOR[cls.kind]} must have one of {cls.kind}: unicuco levels build --{cls.kind}"
            )
        if not record.complete:
            raise LevelsError(
                f"level database {folder} is unfinished: {len(record.linears)} of {len(record.expected)} linears; "
                "build it with --resume"
            )
        for entry in record.linears.values():
            check_file(folder, entry, content=False)
        opened = cls(folder, record)
        if fingerprint is not None:
            opened.check_model(fingerprint)
            opened.verify()
        return opened

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of every linear, in the order of the model."""
        return {name: self.record.linears[name].shape for name in self.record.expected}

    @property
    def sizes(self) -> dict[str, int]:
        """Weights of every linear, in the order of the model."""
        return {name: rows * columns for name, (rows, columns) in self.shapes.items()}

    @property
    def weight_bytes(self) -> int:
        """Bytes of one dense weight."""
        return self.record.torch_dtype.itemsize

    @property
    def bytes(self) -> int:
        """Bytes on disk, ``levels.json`` included."""
        return sum(entry.bytes for entry in self.record.linears.values()) + (self.folder / RECORD).stat().st_size

    def entry(self, name: str) -> LinearEntry:
        """What the record says of one linear, by its full module name.

        Raises:
            LevelsError: If the database has no such linear.
        """
        entry = self.record.linears.get(name)
        if entry is None:
            raise LevelsError(f"level database {self.folder} has no linear {quoted(name)}")
        return entry

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
