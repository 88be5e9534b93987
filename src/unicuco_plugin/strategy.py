"""A strategy: what becomes of each unit, and what that is known to cost."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from unicuco_plugin.errors import StrategyError, explain, quoted
from unicuco_plugin.files.json_text import json_text
from unicuco_plugin.files.received import parse_json, read_text
from unicuco_plugin.frozen import Frozen
from unicuco_plugin.quantities import Latency, Memory
from unicuco_plugin.request import Request
from unicuco_plugin.schemes import DENSE_BITS, parse_scheme
from unicuco_plugin.traits import SpaceTraits, traits_of

__all__ = [
    "CompensationName", "Divergence", "Interval", "ModelReference", "Plain", "Source", "Strategy", "split_halves",
]  # fmt: skip

# Of a strategy's JSON; raised when an older reader would misread a newer file.
SCHEMA = 1
Plain = Literal["uniform", "additive"]
"""What answers without a search: one scheme for all units, or the units' own harms added up."""
Source = Literal["stratnet", "archive", "neighbour", Plain, "peer", "evopress_file"]
# Far above what there is: the largest mixtures of experts have some 50 000 linears.
_MOST_UNITS = 1_000_000
_LONGEST_NAME = 1_000
_MOST_BYTES = 64 * 2**20  # of a file
Name = Annotated[str, Field(max_length=_LONGEST_NAME)]


CompensationName = Annotated[str, Field(pattern=r"^[\w.-]{1,100}$")]
"""Of a method that corrects: it stands in notes and model cards."""


def split_halves(units: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tell sub-layers whose block goes whole from those whose block keeps its other half.

    Args:
        units: Full module names of sub-layers.

    Returns:
        Blocks of which both halves are named, and the halves that are named alone.
    """
    units = list(units)
    halves = Counter(name.rpartition(".")[0] for name in units)
    whole = tuple(block for block, count in halves.items() if count == 2)
    return whole, tuple(name for name in units if halves[name.rpartition(".")[0]] == 1)


class ModelReference(Frozen):
    """The model that a strategy or profile was made for: a name to show, a fingerprint to check."""

    name: Name
    fingerprint: Name


def _check_order(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"interval90 must be (low, high), got {value}")
    return value


Interval = Annotated[tuple[float, float], AfterValidator(_check_order)]
"""A 90 % interval, (low, high)."""


class Divergence(Frozen):
    """Mean KL(dense‖pruned) per token on calibration text, in nats.

    Attributes:
        mean: The best estimate.
        interval90: A 90 % interval around it.
        measured: Whether this very strategy was run on windows that the search never ranked on.
        carried_over: Whether it was found on other weights than those it is applied to.
    """

    mean: float
    interval90: Interval
    measured: bool
    carried_over: bool = False


class Strategy(Frozen):
    """Unit name → share of the unit's weights removed, or the scheme that stores them, with the request it answers.

    Attributes:
        units: Every unit that loses something, with its share in (0, 1]; in spaces of bits with its scheme's name, and
            where blocks may leave as well, these with their share.
        sparsity: Share of all prunable weights removed.
        bits: Mean bits of a weight of all units, scales counted, none where a weight is gone; None in spaces that store
            weights as they are.
        params: Parameters of the whole exported checkpoint.
        bytes: Bytes of its weights, in the dtype of the dense checkpoint where they are not stored by schemes.
        memory: What a server needs under the request's load; None where the request has none.
        latency: What it takes to run under that load; None where there is no load, or no table of a device.
        source: What proposed it: StratNet, the measured archive, a neighbour found on the surrogate's posterior, one
            scheme for all units, the units' own harms added up, a method that we compare with, or a file written by
            EvoPress.
        peer: The name of that method.
        profile: Which of several profiles answered; None where one alone was asked.
        levels: The level database that its divergence refers to; None if unknown, or none was used.
        compensation: What the model is corrected with to have that divergence; None for nothing.
        divergence: None if it was neither measured nor predicted: peers and files do not give one.
    """

    schema_: int = Field(default=SCHEMA, alias="schema")
    space: Name
    model: ModelReference
    request: Request
    sparsity: float = Field(ge=0.0, le=1.0)
    bits: float | None = Field(default=None, gt=0.0, le=DENSE_BITS)
    params: int = Field(gt=0)
    bytes: int = Field(gt=0)
    memory: Memory | None = None
    latency: Latency | None = None
    source: Source
    peer: Name | None = None
    profile: Name | None = None
    levels: Name | None = None
    compensation: CompensationName | None = None
    divergence: Divergence | None
    units: dict[str, float | Name]

    @field_validator("schema_")
    @classmethod
    def _check_schema(cls, value: int) -> int:
        if value != SCHEMA:
            reason = "; a newer unicuco-plugin wrote this strategy" if value > SCHEMA else ""
            raise ValueError(f"schema must be {SCHEMA}, got {value}{reason}")
        return value

    @field_validator("units")
    @classmethod
    def _check_units(cls, value: dict[str, float | str]) -> dict[str, float | str]:
        if len(value) > _MOST_UNITS:
            raise ValueError(f"units must be at most {_MOST_UNITS}, got {len(value)}")
        for name, share in value.items():
            if not 0 < len(name) <= _LONGEST_NAME:
                raise ValueError(f"units must have names of 1 to {_LONGEST_NAME} characters, got {quoted(name)}")
            if isinstance(share, str):
                parse_scheme(share)
            elif not 0.0 < share <= 1.0:
                raise ValueError(f"units[{quoted(name)}] must be in (0, 1], got {share}")
        return value

    @model_validator(mode="after")
    def _check_space(self) -> Self:
        stores, kinds = self.traits.stores, {isinstance(share, str) for share in self.units.values()}
        if stores and self.traits.whole:
            kinds.discard(False)
            gone = tuple(f"{block}." for block in self.shares)
            inside = next((unit for unit in self.schemes if unit.startswith(gone)), None)
            if inside is not None:
                raise ValueError(f"units[{quoted(inside)}] must have no scheme where all of its block goes")
        if len(kinds) > 1:
            raise ValueError("units must all have shares or all have schemes")
        if stores != (self.bits is not None) or not kinds <= {stores}:
            what = "units with the names of schemes, and bits" if stores else "units with shares, and no bits"
            raise ValueError(f"a strategy of the space {quoted(self.space)} has {what}")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Unit → share removed; without those that have schemes."""
        return {name: share for name, share in self.units.items() if not isinstance(share, str)}

    @property
    def schemes(self) -> dict[str, str]:
        """Unit → name of its scheme; without those that have shares."""
        return {name: scheme for name, scheme in self.units.items() if isinstance(scheme, str)}

    @property
    def traits(self) -> SpaceTraits:
        """What strategies of its space do to a model."""
        return traits_of(self.space)

    @property
    def silenced(self) -> tuple[str, ...]:
        """Sub-layers that go from blocks that stay: their weights remain in the checkpoint, and add nothing."""
        return split_halves(self.units)[1] if self.traits.halves else ()

    def to_dict(self) -> dict[str, Any]:
        """The contract's JSON object (``unicuco strategy --json``)."""
        data = self.model_dump(mode="json", by_alias=True)
        data["request"] = self.request.to_dict()
        if self.divergence is not None and not self.divergence.carried_over:
            del data["divergence"]["carried_over"]
        for name in ("bits", "memory", "latency", "peer", "profile", "levels", "compensation"):
            if data[name] is None:
                del data[name]
        return data

    def to_json(self) -> str:
        """One line of JSON."""
        return json_text(self.to_dict())

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Read the contract's JSON object back.

        Raises:
            StrategyError: If it is not a strategy; the message names the field, the rule and the value.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise StrategyError(f"not a strategy: {explain(error)}") from error

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a strategy file.

        Raises:
            StrategyError: If the file is not a regular file of at most 64 MiB, cannot be read or holds no strategy.
        """
        try:
            data = parse_json(read_text(path, largest=_MOST_BYTES))
        except (OSError, ValueError) as error:
            raise StrategyError(f"strategy file {path} cannot be read: {error}") from error
        return cls.from_dict(data)
