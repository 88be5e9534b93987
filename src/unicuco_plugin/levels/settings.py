"""What decides the content of a level database, and the digits that tell one from another."""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from unicuco_plugin.errors import LevelsError, StrategyError, explain
from unicuco_plugin.frozen import Frozen
from unicuco_plugin.schemes import Scheme, parse_scheme

__all__ = ["LADDER", "Inputs", "LevelSettings", "OfOneKind", "identify_levels", "resolve_schemes"]

# Every tenth, from where pruning is free to where it is ruinous; realised counts lie between neighbours.
LADDER = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Inputs = Literal["dense", "pruned"]

# The longest ladder that a record may speak of: a bound of what is allocated for it.
_MOST_LEVELS = 100


class OfOneKind(Frozen):
    """Is written without its empty fields: those of schemes where there are sparsities, and the other way round."""

    @model_serializer(mode="wrap")
    def _filled(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if value or isinstance(value, bool | int | float)}


class LevelSettings(OfOneKind):
    """What decides the content of a level database, beside the model and the calibration windows.

    Attributes:
        sparsities: The ladder, ascending, each in (0, 1); the dense level is not stored. Empty where there are schemes.
        schemes: Names of ways to store a weight (:mod:`unicuco_plugin.schemes`), as they were asked for, in the one
            spelling of each that identities are made of; presets stay presets.
        damping: Share of the Hessian's mean diagonal added to its diagonal.
        block_size: Columns whose masks are chosen together, or that are quantised between two products of matrices.
        inputs: What each block is calibrated on: the ``dense`` model's states, or the mean of the states that all
            levels of the blocks before it give, as a pruned model will (``pruned``). By default ``pruned`` for
            sparsities, ``dense`` for schemes.
        actorder: The order in which columns are quantised, by the toolkit's name: ``static``, those of large inputs
            first (its default), or ``none``, as they stand. Sparsities have no order.
        batch_windows: Windows that pass a block together.
    """

    sparsities: tuple[float, ...] = Field(default=LADDER, max_length=_MOST_LEVELS)
    schemes: tuple[str, ...] = Field(default=(), max_length=_MOST_LEVELS)
    damping: float = Field(default=1e-2, gt=0, lt=1)
    block_size: int = Field(default=128, ge=1, le=2**20)
    inputs: Inputs = "pruned"
    actorder: Literal["static", "none"] | None = None
    batch_windows: int = Field(default=8, ge=1, le=2**20)

    @model_validator(mode="before")
    @classmethod
    def _of_schemes(cls, data: Any) -> Any:  # noqa: ANN401 - pydantic's signature
        if isinstance(data, dict) and data.get("schemes"):
            return {"sparsities": (), "inputs": "dense", "actorder": "static"} | data
        return data

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if not (self.sparsities or self.schemes):
            raise ValueError("sparsities must be one or more in (0, 1), each once and ascending, got []")
        if self.sparsities and self.schemes:
            raise ValueError("sparsities and schemes exclude each other: a database holds levels of one kind")
        if self.sparsities and self.actorder:
            raise ValueError("actorder is of schemes, a database of sparsities has none")
        return self

    @field_validator("schemes")
    @classmethod
    def _read(cls, schemes: tuple[str, ...]) -> tuple[str, ...]:
        read = [parse_scheme(name) for name in schemes]
        names = [scheme.name for scheme in read]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"schemes must be named once, got {twice[0]} twice")
        return tuple(scheme.asked for scheme in read)

    @field_validator("sparsities")
    @classmethod
    def _ascend(cls, sparsities: tuple[float, ...]) -> tuple[float, ...]:
        ladder = list(sparsities)
        if ladder != sorted(set(ladder)) or not all(0 < sparsity < 1 for sparsity in ladder):
            raise ValueError(f"sparsities must be one or more in (0, 1), each once and ascending, got {ladder}")
        return sparsities

    @property
    def kind(self) -> Literal["sparsities", "schemes"]:
        """What the levels are."""
        return "schemes" if self.schemes else "sparsities"

    @property
    def count(self) -> int:
        """How many levels there are."""
        return len(self.schemes or self.sparsities)

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


def identify_levels(calibration: str, settings: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that tell the level databases of one model apart.

    Args:
        calibration: Hash of the calibration windows.
        settings: :class:`LevelSettings` as plain JSON data.
    """
    text = json.dumps([calibration, dict(settings)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache  # a record asks for every linear
def resolve_schemes(schemes: tuple[str, ...], columns: int) -> tuple[Scheme, ...]:
    """What a linear is offered of schemes that were asked for, each once, the most bits per weight first.

    Args:
        schemes: Names. A preset takes the largest group that divides the inputs, and is left out where none does.
        columns: Inputs of the linear.

    Raises:
        StrategyError: If one names no scheme, or a group of its own that does not divide the inputs.
    """
    found: dict[str, Scheme] = {}
    for scheme in map(parse_scheme, schemes):
        try:
            fitting = scheme.for_inputs(columns)
        except StrategyError:
            if scheme.chosen:
                raise
        else:
            found.setdefault(fitting.name, fitting)
    return tuple(sorted(found.values(), key=lambda scheme: -scheme.bits_per_weight(columns)))
