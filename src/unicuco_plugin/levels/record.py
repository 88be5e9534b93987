"""``levels.json``: how a level database was made, and what each of its files holds."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from unicuco_plugin.errors import LevelsError, explain, quoted
from unicuco_plugin.files.draft import write_whole
from unicuco_plugin.files.names import check_plain_name
from unicuco_plugin.signed import SignedDocument
from unicuco_plugin.strategy import ModelReference

__all__ = [
    "LADDER",
    "RECORD",
    "SCHEMA",
    "Calibration",
    "Inputs",
    "LevelSettings",
    "LevelsRecord",
    "LinearEntry",
    "identify_levels",
    "read_record",
    "write_file",
    "write_record",
]

# Of levels.json; raised when an older reader would misread a newer file.
SCHEMA = 1
RECORD = "levels.json"
_DOCUMENT = SignedDocument("level database", SCHEMA, LevelsError, "build it again", "; unicuco levels build makes one")
# Every tenth, from where pruning is free to where it is ruinous; realised counts lie between neighbours.
LADDER = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Inputs = Literal["dense", "pruned"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# The largest weight that a record may speak of, and the longest ladder and list: bounds of what is allocated for them.
_MOST_WEIGHTS = 2**34
_MOST_LEVELS = 100
_MOST_LINEARS = 1_000_000
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Count = Annotated[int, Field(ge=0)]


class LevelSettings(_Frozen):
    """What determines a level database, besides the model and the calibration windows.

    Attributes:
        sparsities: The ladder, ascending, each in (0, 1); the dense level is not stored.
        damping: Share of the Hessian's mean diagonal added to its diagonal.
        block_size: Columns whose masks are chosen together.
        inputs: What each block is calibrated on: the ``dense`` model's states, or the mean of the states that all
            levels of the blocks before it give, as a pruned model will (``pruned``).
        batch_windows: Windows run through a block together.
    """

    sparsities: tuple[float, ...] = Field(default=LADDER, max_length=_MOST_LEVELS)
    damping: float = Field(default=1e-2, gt=0, lt=1)
    block_size: int = Field(default=128, ge=1, le=2**20)
    inputs: Inputs = "pruned"
    batch_windows: int = Field(default=8, ge=1, le=2**20)

    @field_validator("sparsities")
    @classmethod
    def _ascend(cls, sparsities: tuple[float, ...]) -> tuple[float, ...]:
        ladder = list(sparsities)
        if not ladder or ladder != sorted(set(ladder)) or not all(0 < sparsity < 1 for sparsity in ladder):
            raise ValueError(f"sparsities must be one or more in (0, 1), each once and ascending, got {ladder}")
        return sparsities

    @classmethod
    def of(cls, **fields: Any) -> Self:  # noqa: ANN401 - what pydantic takes
        """Validate fields.

        Raises:
            LevelsError: If one is out of range or unknown.
        """
        try:
            return cls(**fields)
        except ValidationError as error:
            raise LevelsError(explain(error)) from error


class Calibration(_Frozen):
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


class LinearEntry(_Frozen):
    """One linear's file.

    Attributes:
        file: Its name in the folder.
        shape: Rows and columns of the weight.
        bytes, sha256: Of the file.
        zeros: Zero weights at each level of the ladder.
        invertible: Whether the inputs' Hessian could be inverted; if not, the linear was pruned by magnitude.
    """

    file: str
    shape: tuple[int, int]
    bytes: Count
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    zeros: tuple[Count, ...]
    invertible: bool

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


def identify_levels(calibration: str, settings: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that tell the level databases of one model apart.

    Args:
        calibration: Hash of the calibration windows.
        settings: :class:`LevelSettings` as plain JSON data.
    """
    text = json.dumps([calibration, dict(settings)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class LevelsRecord(_Frozen):
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
    linears: dict[str, LinearEntry] = {}
    seconds: float = Field(default=0.0, ge=0.0)
    versions: dict[str, str] = {}

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
            if len(entry.zeros) != len(self.settings.sparsities):
                raise ValueError(
                    f"zeros of {quoted(name)} must be one for each of {len(self.settings.sparsities)} levels, got "
                    f"{len(entry.zeros)}"
                )
            if max(entry.zeros) > entry.shape[0] * entry.shape[1]:
                raise ValueError(f"zeros of {quoted(name)} must be at most its weights, got {max(entry.zeros)}")
        return self

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
            f"{name} is {mine[name]!r} there and {theirs[name]!r} here" for name in mine if mine[name] != theirs[name]
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
