"""A profile on disk: one JSON file that says everything, two safetensors files that it vouches for."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from unicuco_plugin.errors import ProfileError, explain
from unicuco_plugin.signed import SignedDocument
from unicuco_plugin.spaces.units import name_block
from unicuco_plugin.strategy import ModelReference

__all__ = [
    "RECORD",
    "SCHEMA",
    "ArchiveEntry",
    "Confirmation",
    "ProfileRecord",
    "SizeTable",
    "read_profile",
    "write_profile",
]

SCHEMA = 1
RECORD = "profile.json"
_DOCUMENT = SignedDocument("profile", SCHEMA, ProfileError, "train it again")
_DIGITS = 8  # of its digest in a tensor file's name


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Confirmation(_Frozen):
    """A strategy's divergence on windows that no ranking saw, nats per token."""

    mean: float
    interval90: tuple[float, float]


class ArchiveEntry(_Frozen):
    """One measured strategy.

    Attributes:
        strategy: What it removes, as its space writes it (``Space.key``); two hundred names an entry would be most of
            the file.
        rank: Divergence on the ranking windows, nats per token; the surrogate's where it was only confirmed.
        measured: Whether ``rank`` was measured.
        reranked: The same on a second lot of ranking windows, for the best of each budget.
        confirmed: The same on windows of their own, where it was confirmed.
    """

    strategy: str
    rank: float
    measured: bool = True
    reranked: float | None = None
    confirmed: Confirmation | None = None


class SizeTable(_Frozen):
    """What each unit weighs in the checkpoint.

    Attributes:
        unit_params: Parameters of each unit; of all its parts, where it has parts.
        unit_bytes: Bytes of the weight files that go with it.
        total_params, total_bytes: Of the dense checkpoint.
        dtype: The dtype those bytes are counted in.
        blocks: Parameters and bytes by name of each block that leaves with the last of its units: all of it where
            units alone leave nothing, else what belongs to none of them.
        parts: Equal parts of each unit, and how many of them go together, where units go part by part.
        rests: Parameters and bytes that leave beside its parts when a unit goes whole, less those of the bias that
            then stands for it.
        biases: Parameters and bytes that a unit gains which loses some of its parts: of the bias that stands for them.
    """

    unit_params: tuple[int, ...]
    unit_bytes: tuple[int, ...]
    total_params: int = Field(gt=0)
    total_bytes: int = Field(gt=0)
    dtype: str
    blocks: dict[str, tuple[int, int]] = {}
    parts: tuple[tuple[int, int], ...] = ()
    rests: tuple[tuple[int, int], ...] = ()
    biases: tuple[tuple[int, int], ...] = ()

    def left(self, units: Sequence[str], shares: Sequence[float], *, physical: bool) -> tuple[int, int]:
        """Parameters and bytes of the checkpoint of a strategy.

        Args:
            units: Names of all units.
            shares: How much of each is removed.
            physical: Whether a unit that goes leaves by itself; otherwise it does with its whole block.
        """
        leaving = []
        if self.parts:
            leaving += [self._leaving(index, share) for index, share in enumerate(shares) if share > 0.0]
        elif physical:
            pairs = zip(self.unit_params, self.unit_bytes, shares, strict=True)
            leaving += [(params, size) for params, size, share in pairs if share > 0.0]
        if self.blocks:
            staying = {name_block(unit) for unit, share in zip(units, shares, strict=True) if share < 1.0}
            leaving += [pair for block, pair in self.blocks.items() if block not in staying]
        return self.total_params - sum(p for p, _ in leaving), self.total_bytes - sum(b for _, b in leaving)

    def _leaving(self, index: int, share: float) -> tuple[int, int]:
        """Of one unit that loses parts."""
        count, _ = self.parts[index]
        gone = round(share * count)
        params, size = self.unit_params[index] // count * gone, self.unit_bytes[index] // count * gone
        if gone == count:
            return params + self.rests[index][0], size + self.rests[index][1]
        return params - self.biases[index][0], size - self.biases[index][1]


class ProfileRecord(_Frozen):
    """Everything in ``profile.json`` but the schema and the digests.

    Attributes:
        name: What it is called; a packaged profile's folder.
        model: The dense model.
        space, objective, scalarization: Names that plugins answer to.
        quality: Scale of the quality objective, ``log`` or ``raw``.
        target: What the surrogate models, ``log`` or ``raw`` divergence.
        units: All unit names.
        bounds: Least and largest share of each; empty where the space knows them by itself.
        sizes: What they weigh.
        ideal, nadir: Of the objectives (size, quality), frozen when training ended.
        shift, shift_std: How the logarithm of a confirmed divergence differs from the surrogate's prediction.
        reranked_shift, noise: The same for the second lot of ranking windows; ``noise`` is how far one lot of
            ranking windows may mislead.
        archive: Every measured strategy.
        provenance: Versions, seed, arguments, calibration hash, tokens and seconds spent.
    """

    name: str
    model: ModelReference
    space: str
    objective: str
    scalarization: str
    quality: Literal["log", "raw"]
    target: Literal["log", "raw"]
    units: tuple[str, ...]
    bounds: tuple[tuple[float, float], ...] = ()
    sizes: SizeTable
    ideal: tuple[float, float]
    nadir: tuple[float, float]
    shift: float
    shift_std: float
    reranked_shift: float
    noise: float
    archive: tuple[ArchiveEntry, ...]
    provenance: dict[str, Any]

    @classmethod
    def from_dict(cls, data: object, path: Path) -> Self:
        """Validate what a profile.json held."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ProfileError(f"profile {path} is damaged: {explain(error)}") from error


def write_profile(folder: Path, record: ProfileRecord, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write a profile folder whole or not at all; an older one of that name is replaced at the very end.

    Args:
        folder: Where to; its parent is made if it is missing. Files beside the profile's own are kept.
        record: What goes into ``profile.json``.
        tensors: Tensors by file stem, such as ``{"stratnet": {…}}``.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        files = {_file_name(stem, data): data for stem, data in ((s, save(dict(t))) for s, t in tensors.items())}
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        text = _DOCUMENT.dumps({**record.model_dump(mode="json"), "files": digests})
        folder.mkdir(exist_ok=True)
        # Tensors carry their digest in their name and the record goes last, so a reader meets the old profile whole
        # or the new one whole; what only the old one named goes after that.
        for name, data in {**files, RECORD: text}.items():
            with (partial / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            (partial / name).replace(folder / name)
        for stem in tensors:
            for old in folder.glob(f"{stem}-{'[0-9a-f]' * _DIGITS}.safetensors"):
                if old.name not in files:
                    old.unlink()
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _file_name(stem: str, data: bytes) -> str:
    return f"{stem}-{hashlib.sha256(data).hexdigest()[:_DIGITS]}.safetensors"


def read_profile(folder: Path) -> tuple[ProfileRecord, dict[str, dict[str, Tensor]]]:
    """Read a profile folder and check it against its own digests.

    Raises:
        ProfileError: If it is missing, truncated, edited, or of another schema; the message says which.
    """
    path = folder / RECORD
    content = _DOCUMENT.read(path)
    files = content.pop("files")
    record = ProfileRecord.from_dict(content, path)
    return record, {name.partition("-")[0]: _read(folder / name, expect) for name, expect in files.items()}


def _read(path: Path, expect: str) -> dict[str, Tensor]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProfileError(f"profile file {path} cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != expect:
        raise ProfileError(f"profile file {path} was edited or truncated: it does not match {RECORD}")
    try:
        tensors: dict[str, Tensor] = load(data)
    except SafetensorError as error:
        raise ProfileError(f"profile file {path} is damaged: {error}") from error
    return tensors
