"""A request: exactly one wish about a cost or about quality."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema

from unicuco_plugin.errors import RequestError, explain, quoted
from unicuco_plugin.files.received import parse_json, read_text

__all__ = ["KINDS", "LIMITS", "CostLimit", "Request", "parse_bytes", "read_requests"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_ROUNDING = 1e-15  # two correctly rounded shares of one total sum to 1 within 2 units in the last place, 4.4e-16

_LONGEST_NUMBER = 40  # characters of a number of bytes; what is longer is no number that anybody means
# A file of requests: far more than a table of answers is read for.
_MOST_BYTES, _MOST_LINES, _LONGEST_LINE = 64 * 2**20, 100_000, 10_000


def parse_bytes(text: str) -> int:
    """Read ``6000000``, ``6GB`` or ``5.5 GiB`` as a number of bytes.

    Raises:
        RequestError: If the text is not a positive number with an optional unit (kB … TB are powers of 1000,
            KiB … TiB powers of 1024), in at most 40 characters.
    """
    pattern = r"\s*([0-9]*\.?[0-9]+(?:e[0-9]{1,2})?)\s*([kmgt]?i?)b?\s*"
    # The pattern tries every way to split a run of digits: the time it takes grows with the square of their number.
    match = re.fullmatch(pattern, text, flags=re.IGNORECASE) if len(text) <= _LONGEST_NUMBER else None
    # Decimal, because a float would round counts above 2**53.
    count = int(Decimal(match[1]) * _UNITS.get(match[2].lower(), 0)) if match else 0
    if count <= 0:
        raise RequestError(f"max_bytes must be a number of bytes such as 6000000, 6GB or 5.5GiB, got {quoted(text)}")
    return count


@dataclass(frozen=True)
class CostLimit:
    """Says of a request's field that it limits a cost; with the field itself, all that a new limit takes here.

    Attributes:
        cost: The cost's name, see ``costs.model``.
        text: What the command line says of it.
        read: Turns text, such as a number with a unit, into the number; None where there is only the number.
        most: The largest that makes sense.
        number: What it is.
    """

    cost: str
    text: str
    read: Callable[[str], int] | None = None
    most: float = 10**18  # parameters or bytes: a million times the largest models of today
    number: type[int] | type[float] = int

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Also says what the field means, and that it takes text."""
        schema: dict[str, Any] = {**handler(core), "description": self.text}
        if self.read is not None:
            schema["anyOf"] = [*schema["anyOf"], {"type": "string", "maxLength": 40}]
        return schema


class Request(BaseModel):
    """What a user asks of a profile: exactly one of the fields is set.

    Attributes:
        sparsity: The least share of prunable weights to remove, in (0, 1).
        max_params: The most parameters that the whole exported checkpoint may have.
        max_bytes: The most bytes of exported weight files, before any later quantisation; also ``"6GB"``.
        bits: The most mean bits of a weight of the quantised linears, their scales counted.
        max_divergence: The most mean KL(dense‖pruned), in nats per token; the smallest model within it is the answer.
        preference: The paper's lambda, always (size, quality); non-negative, scaled to sum to one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sparsity: float | None = None
    max_params: Annotated[
        int | None, CostLimit("params", "At most this many parameters in the whole exported checkpoint.")
    ] = None
    max_bytes: Annotated[
        int | None, CostLimit("bytes", "At most this many bytes of weight files; also 200MB, 5.5GiB.", parse_bytes)
    ] = None
    bits: Annotated[
        float | None,
        CostLimit(
            "bits",
            "At most this many bits a weight on average, scales counted, of all linears that may be quantised.",
            most=16,
            number=float,
        ),
    ] = None
    max_divergence: float | None = None
    preference: tuple[float, float] | None = None

    @classmethod
    def of(cls, /, **fields: Any) -> Self:  # noqa: ANN401 - validated right here
        """Build a request from keyword fields.

        Raises:
            RequestError: If not exactly one field is given, or a value is out of its range.
        """
        try:
            return cls(**fields)
        except ValidationError as error:
            unknown = any(entry["type"] == "extra_forbidden" for entry in error.errors())
            hint = f"; a request has one of {', '.join(KINDS)}" if unknown else ""
            raise RequestError(explain(error) + hint) from error

    @field_validator("*", mode="before")
    @classmethod
    def _read_unit(cls, value: object, info: ValidationInfo) -> object:
        limit = LIMITS.get(info.field_name or "")
        return limit.read(value) if limit is not None and limit.read is not None and isinstance(value, str) else value

    @field_validator("sparsity")
    @classmethod
    def _check_sparsity(cls, value: float | None) -> float | None:
        if value is not None and not 0.0 < value < 1.0:
            raise ValueError(f"sparsity must be in (0, 1), got {value}")
        return value

    @field_validator("*")
    @classmethod
    def _check_positive(cls, value: object, info: ValidationInfo) -> object:
        limit = LIMITS.get(info.field_name or "")
        if limit is None or not isinstance(value, int | float):
            return value
        if not value > 0:
            raise ValueError(f"{info.field_name} must be positive, got {quoted(value)}")
        if value > limit.most:
            most = "10**18" if limit.number is int else f"{limit.most:g}"
            raise ValueError(f"{info.field_name} must be at most {most}, got {quoted(value)}")
        return value

    @field_validator("max_divergence")
    @classmethod
    def _check_divergence(cls, value: float | None) -> float | None:
        if value is not None and not (value > 0.0 and math.isfinite(value)):
            raise ValueError(f"max_divergence must be positive and finite, in nats per token, got {value}")
        return value

    @field_validator("preference")
    @classmethod
    def _check_preference(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is None:
            return None
        total = value[0] + value[1]
        if not (min(value) >= 0.0 and 0.0 < total < math.inf):
            raise ValueError(f"preference must be two non-negative numbers (size, quality), not both 0, got {value}")
        # Dividing again could move the last bit, and a request read back from JSON would not equal the one written.
        return value if abs(total - 1.0) < _ROUNDING else (value[0] / total, value[1] / total)

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"a request has exactly one of {', '.join(KINDS)}; got {', '.join(given) or 'none'}")
        return self

    @property
    def kind(self) -> str:
        """The name of the one field that is set."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def limit(self) -> tuple[str, float] | None:
        """The cost that is limited, and the most of it; None where the wish is another."""
        limit = LIMITS.get(self.kind)
        return None if limit is None else (limit.cost, getattr(self, self.kind))

    def to_dict(self) -> dict[str, Any]:
        """The one field as plain JSON data."""
        return self.model_dump(mode="json", exclude_none=True)


KINDS: tuple[str, ...] = tuple(Request.model_fields)
LIMITS: Mapping[str, CostLimit] = {
    name: found
    for name, field in Request.model_fields.items()
    for found in field.metadata
    if isinstance(found, CostLimit)
}
"""The fields that limit a cost."""


def read_requests(path: Path) -> list[Request]:
    """Read one JSON request a line; blank lines are skipped.

    Raises:
        RequestError: If the file is no regular file, cannot be read, has more than 64 MiB or 100 000 lines, or holds no
            request; or a line is not one or has more than 10 000 characters; the message names the line.
    """
    try:
        lines = read_text(path, largest=_MOST_BYTES).split("\n", _MOST_LINES + 1)
    except (OSError, ValueError) as error:
        raise RequestError(f"request file {path} cannot be read: {error}") from error
    if len(lines) > _MOST_LINES + 1:  # behind the last line break there is nothing
        raise RequestError(f"request file {path} must have at most {_MOST_LINES} lines")
    requests = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            requests.append(_read_line(line))
        except ValueError as error:  # ours, JSON's, and Python's own for an integer of too many digits
            raise RequestError(f"{path}, line {number}: {error}") from error
    if not requests:
        raise RequestError(f"request file {path} holds no request; write one JSON object per line")
    return requests


def _read_line(line: str) -> Request:
    if len(line) > _LONGEST_LINE:
        raise RequestError(f"a request must have at most {_LONGEST_LINE} characters, got {len(line)}")
    fields = parse_json(line)
    if not isinstance(fields, dict):
        raise RequestError(f'expected an object such as {{"sparsity": 0.25}}, got {quoted(line.strip())}')
    return Request.of(**fields)
