"""What a profile says about itself: its units and their sizes, every measured strategy, and how it was made."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from unicuco_plugin.costs.table import CostTable
from unicuco_plugin.errors import ProfileError, explain, quoted
from unicuco_plugin.frozen import Frozen
from unicuco_plugin.strategy import CompensationName, Interval, ModelReference, Plain

__all__ = ["ArchiveEntry", "Confirmation", "ProfileRecord"]

# Bounds of what a stranger's record may claim. The most nats are far beyond what a float16 model can differ by; the
# most units are all linears of a large mixture of experts.
_MOST_NATS = 1e4
_MOST_UNITS = 50_000
_LONGEST_TEXT = 100_000

Name = Annotated[str, Field(min_length=1, max_length=1000)]
Nats = Annotated[float, Field(ge=0.0, le=_MOST_NATS)]
Logarithm = Annotated[float, Field(ge=-_MOST_NATS, le=_MOST_NATS)]


class Confirmation(Frozen):
    """A strategy's divergence on windows that no ranking saw, nats per token."""

    mean: Nats
    interval90: Interval


class ArchiveEntry(Frozen):
    """One measured strategy.

    Attributes:
        strategy: What it removes, as its space writes it (``Space.key``); two hundred names an entry would be most of
            the file.
        rank: Divergence on the ranking windows, nats per token; the surrogate's where it was only confirmed.
        measured: Whether ``rank`` was measured.
        reranked: The same on a second lot of ranking windows, for the best of each budget.
        confirmed: The same on windows of their own, where it was confirmed.
        plain: The plain method that would answer with it, if one does.
    """

    strategy: str = Field(min_length=1, max_length=_LONGEST_TEXT)
    rank: Nats
    measured: bool = True
    reranked: Nats | None = None
    confirmed: Confirmation | None = None
    plain: Plain | None = None

    @model_serializer(mode="wrap")
    def _without(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Older readers know no such field, and most entries have none.
        return {name: value for name, value in dump(self).items() if name != "plain" or value}


class ProfileRecord(Frozen):
    """Everything in ``profile.json`` but the schema and the digests.

    Attributes:
        name: What it is called; a packaged profile's folder.
        model: The dense model.
        space, objective, scalarization: Names that plugins answer to.
        quality: Scale of the quality objective, ``log`` or ``raw``.
        target: What the surrogate models, ``log`` or ``raw`` divergence.
        units: All unit names.
        bounds: Least and largest share of each; empty where the space knows them by itself.
        needed: Groups of indices of units: of each one has to stay for the model to generate; empty where any will do.
        sizes: What they weigh.
        ideal, nadir: Of the objectives (size, quality), frozen when training ended.
        shift, shift_std: How the logarithm of a confirmed divergence differs from the surrogate's prediction.
        reranked_shift, noise: The same for the second lot of ranking windows; ``noise`` is how far one lot of
            ranking windows may mislead.
        archive: Every measured strategy.
        compensation: What strategies were corrected with when they were measured; None for nothing. Older readers, who
            would apply them without, know no such field and refuse the profile.
        provenance: Versions, seed, arguments, calibration hash, tokens and seconds spent.
    """

    name: Name
    model: ModelReference
    space: Name
    objective: Name
    scalarization: Name
    quality: Literal["log", "raw"]
    target: Literal["log", "raw"]
    units: tuple[Name, ...] = Field(min_length=1, max_length=_MOST_UNITS)
    bounds: tuple[tuple[float, float], ...] = ()
    needed: tuple[tuple[Annotated[int, Field(ge=0)], ...], ...] = ()
    sizes: CostTable
    ideal: tuple[Logarithm, Logarithm]
    nadir: tuple[Logarithm, Logarithm]
    shift: Logarithm
    shift_std: Nats
    reranked_shift: Logarithm
    noise: Nats
    archive: tuple[ArchiveEntry, ...]
    compensation: CompensationName | None = None
    provenance: dict[str, Any]

    @field_validator("provenance")
    @classmethod
    def _check_provenance(cls, value: dict[str, Any]) -> dict[str, Any]:
        if any(isinstance(leaf, float) and not math.isfinite(leaf) for leaf in _leaves(value)):
            raise ValueError("provenance must hold finite numbers")
        if any(isinstance(leaf, str) and len(leaf) > _LONGEST_TEXT for leaf in _leaves(value)):
            raise ValueError(f"provenance must hold texts of at most {_LONGEST_TEXT:,} characters")
        if "levels" in value:
            _LevelsHeader.model_validate(value["levels"])
        return value

    @model_validator(mode="after")
    def _check_units(self) -> Self:
        count = len(self.units)
        if len(set(self.units)) < count:
            twice = next(name for index, name in enumerate(self.units) if name in self.units[:index])
            raise ValueError(f"units must have distinct names, got {quoted(twice)} twice")
        self.sizes.check_lengths(count)
        if len(self.bounds) not in (0, count):
            raise ValueError(f"bounds must have one entry for each of {count} units, got {len(self.bounds)}")
        if not all(0.0 <= low <= high <= 1.0 for low, high in self.bounds):
            raise ValueError("bounds must be (least, largest) shares in [0, 1]")
        if any(index >= count for group in self.needed for index in group):
            raise ValueError(f"needed must be groups of indices of {count} units, got {quoted(self.needed)}")
        if len({entry.strategy for entry in self.archive}) < len(self.archive):
            raise ValueError("archive must hold each strategy once")
        return self

    @classmethod
    def from_dict(cls, data: object, path: Path) -> Self:
        """Validate what a profile.json held."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ProfileError(f"profile {path} is damaged: {explain(error)}") from error


class _LevelsHeader(BaseModel):
    """What a profile that was trained on a level database says about it and its units, as reports show it."""

    model_config = ConfigDict(allow_inf_nan=False)

    levels: tuple[str, dict[str, Any]]
    granularity: str = "unit"
    ignore: tuple[str, ...]
    bounds: tuple[tuple[float, float], ...] = ()


def _leaves(value: object) -> Iterator[object]:
    """Everything in JSON data that is no list and no object."""
    if isinstance(value, Mapping):
        for entry in value.values():
            yield from _leaves(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _leaves(entry)
    else:
        yield value
