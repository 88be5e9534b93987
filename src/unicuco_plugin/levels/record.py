"""``levels.json``: how a level database was made, and what each of its files holds."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, ValidationError, field_validator, model_validator

from unicuco_plugin.errors import LevelsError, explain, quoted
from unicuco_plugin.files.draft import write_whole
from unicuco_plugin.files.names import check_plain_name
from unicuco_plugin.frozen import Frozen
from unicuco_plugin.levels.settings import LevelSettings, OfOneKind, identify_levels, resolve_schemes
from unicuco_plugin.schemes import Scheme
from unicuco_plugin.signed import SignedDocument
from unicuco_plugin.strategy import ModelReference

__all__ = [
    "RECORD",
    "SCHEMA",
    "Calibration",
    "LevelsRecord",
    "LinearEntry",
    "read_record",
    "write_file",
    "write_record",
]

# Of levels.json; raised when an older reader would misread a newer file.
SCHEMA = 1
RECORD = "levels.json"
_DOCUMENT = SignedDocument("level database", SCHEMA, LevelsError, "build it again", "; unicuco levels build makes one")
# The largest weight that a record may speak of, and the longest list: bounds of what is allocated for them.
_MOST_WEIGHTS = 2**34
_MOST_LINEARS = 1_000_000
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Count = Annotated[int, Field(ge=0)]


class Calibration(Frozen):
    """The windows that a database was calibrated on.

    Attributes:
        sources: Where they came from.
        hash: Of their token ids, see :func:`unicuco_plugin.texts.calibration.calibration_hash`.
        windows, length: How many, of how many tokens.
    """

    sources: tuple[str, ...]
    hash: str
    windows: Count
    length: Count


class LinearEntry(OfOneKind):
    """One linear's file.

    Attributes:
        file: Its name in the folder.
        shape: Rows and columns of the weight.
        bytes, sha256: Of the file.
        zeros: Zero weights at each level of the ladder; empty for schemes.
        losses: What each scheme that the linear is offered loses, as the toolkit's GPTQ counts it; empty for
            sparsities.
        invertible: Whether the inputs' Hessian could be inverted; if not, the linear was pruned by magnitude, or
            rounded to nearest.
    """

    file: str
    shape: tuple[int, int]
    bytes: Count
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    zeros: tuple[Count, ...] = ()
    losses: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    invertible: bool

    @property
    def levels(self) -> int:
        """Weights that its file holds."""
        return len(self.zeros) or len(self.losses)

    @field_validator("file")
    @classmethod
    def _check_file(cls, value: str) -> str:
        try:
            return check_plain_name(value)
        except ValueError as error:
            raise ValueError(f"file {error}") from error

    @field_validator("shape")
    @classmethod
    def _check_shape(cls, value: tuple[int, int]) -> tuple[int, int]:
        if min(value) < 1 or value[0] * value[1] > _MOST_WEIGHTS:
            raise ValueError(
                f"shape must be positive rows and columns of at most {_MOST_WEIGHTS:,} weights, got {value}"
            )
        return value


class LevelsRecord(Frozen):
    """Everything in ``levels.json`` but the schema and the digest.

    Attributes:
        model: The dense model.
        dtype: Of the weights, such as ``bfloat16``.
        device: Type of the device they were solved on; its rounding shows in the last digits.
        settings, calibration: How they were solved, and on which windows.
        expected: Every prunable linear, in the order of the model.
        linears: Those that are done.
        seconds: Wall seconds of the build, all runs together.
        versions: Of the packages that decide the content.
    """

    model: ModelReference
    dtype: Literal["float64", "float32", "bfloat16", "float16"]
    device: str
    settings: LevelSettings
    calibration: Calibration
    expected: tuple[Name, ...] = Field(max_length=_MOST_LINEARS)
    linears: dict[str, LinearEntry] = Field(default_factory=dict)
    seconds: float = Field(default=0.0, ge=0.0)
    versions: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_linears(self) -> Self:
        known = set(self.expected)
        if len(known) < len(self.expected):
            raise ValueError("expected must name every linear once")
        for name, entry in self.linears.items():
            if name not in known:
                raise ValueError(f"linears must be expected ones, got {quoted(name)}")
            if entry.file != f"{name}.safetensors":
                raise ValueError(
                    f"the file of {quoted(name)} must be {quoted(f'{name}.safetensors')}, got {quoted(entry.file)}"
                )
            if entry.losses.keys() != {scheme.name for scheme in self.offered(entry)}:
                raise ValueError(
                    f"losses of {quoted(name)} must be one for each scheme that it is offered, got {len(entry.losses)}"
                )
            if len(entry.zeros) != len(self.settings.sparsities):
                raise ValueError(
                    f"zeros of {quoted(name)} must be one for each of {len(self.settings.sparsities)} levels, got "
                    f"{len(entry.zeros)}"
                )
            if max(entry.zeros, default=0) > entry.shape[0] * entry.shape[1]:
                raise ValueError(f"zeros of {quoted(name)} must be at most its weights, got {max(entry.zeros)}")
        return self

    def offered(self, entry: LinearEntry) -> tuple[Scheme, ...]:
        """The schemes of a linear, see :func:`resolve_schemes`."""
        return resolve_schemes(self.settings.schemes, entry.shape[1])

    @property
    def torch_dtype(self) -> torch.dtype:
        """``dtype`` as PyTorch has it."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @property
    def complete(self) -> bool:
        """Whether every linear is there."""
        return self.linears.keys() == set(self.expected)

    @property
    def identity(self) -> str:
        """See :func:`identify_levels`."""
        return identify_levels(self.calibration.hash, self.settings.model_dump(mode="json"))

    def differences(self, other: "LevelsRecord") -> list[str]:
        """Say in which arguments another build differs, with both values, this one's first."""
        mine, theirs = self._identity(), other._identity()
        return [
            f"{name} is {mine.get(name)!r} there and {theirs.get(name)!r} here"
            for name in mine | theirs
            if mine.get(name) != theirs.get(name)
        ]

    def _identity(self) -> dict[str, Any]:
        return {
            "model": self.model.fingerprint,
            "dtype": self.dtype,
            "device": self.device,
            "calibration": self.calibration.hash,
            **self.settings.model_dump(),
        }


def read_record(folder: Path) -> LevelsRecord:
    """Read ``levels.json`` and check it against its own digest.

    Raises:
        LevelsError: If it is missing, edited, damaged or of another schema; the message says which.
    """
    path = folder / RECORD
    content = _DOCUMENT.read(path, follow=False)
    try:
        return LevelsRecord.model_validate(content)
    except ValidationError as error:
        raise LevelsError(f"level database {path} is damaged: {explain(error)}") from error


def write_record(folder: Path, record: LevelsRecord) -> None:
    """Write ``levels.json`` whole or not at all."""
    write_file(folder / RECORD, _DOCUMENT.dumps(record.model_dump(mode="json")))


def write_file(path: Path, data: bytes) -> None:
    """Write a file under another name, have it and its folder reach the disk, and rename it between the two.

    Raises:
        LevelsError: If the disk refuses; then nothing is left behind and an older file of that name stays.
    """
    try:
        write_whole(path, data)
    except OSError as error:
        raise LevelsError(f"level file {path} cannot be written: {error.strerror or error}") from error
