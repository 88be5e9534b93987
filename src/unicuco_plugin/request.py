"""A request: limits on costs and on divergence, all of which hold, or a preference; the rest is as good as it gets."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from unicuco_plugin.errors import RequestError, explain, quoted
from unicuco_plugin.quantities import (
    Batch,
    CacheDtype,
    Context,
    CostLimit,
    Load,
    Phase,
    parse_bytes,
    parse_milliseconds,
)

__all__ = ["BESIDE", "DIVERGENCE", "KINDS", "LIMITS", "LOADED", "Request"]

_ROUNDING = 1e-15  # two correctly rounded shares of one total sum to 1 within 2 units in the last place, 4.4e-16

DIVERGENCE = "divergence"
"""What ``over`` calls the divergence beside costs."""


class Request(BaseModel):
    """What a user asks of a profile: limits, any of them together, or a preference among what keeps them.

    Of strategies within all limits on costs the one of least divergence is the answer, which is refused where that
    exceeds ``max_divergence``. That limit alone asks for the smallest model within it.

    Attributes:
        sparsity: The least share of prunable weights to remove, in (0, 1).
        max_params: The most parameters that the whole exported checkpoint may have.
        max_bytes: The most bytes of exported weight files, before any later quantisation; also ``"6GB"``.
        bits: The most mean bits of a weight of the quantised linears, their scales counted.
        max_memory: The most bytes that a server needs for the weights, ``batch`` sequences of ``context`` tokens, and a
            step; also ``"24GB"``.
        max_latency: The most milliseconds that one more token of every sequence may take; also ``"30ms"``, ``"0.03s"``.
        min_speedup: The least tokens a second in ``phase``, as a multiple of the dense model's.
        max_divergence: The most mean KL(dense‖pruned), in nats per token, at the upper end of its interval.
        preference: The paper's lambda, (size, quality); non-negative, scaled to sum to one.
        context, batch, cache_dtype: The load that memory and time are counted under; see :class:`Load`.
        phase: What ``min_speedup`` is of, and ``over`` where it weighs time.
        over: What ``preference`` weighs instead: two costs, or a cost and ``divergence``.
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
    max_memory: Annotated[
        int | None,
        CostLimit(
            "memory",
            "At most this many bytes while it is served, under the load of --context and --batch.",
            parse_bytes,
        ),
    ] = None
    max_latency: Annotated[
        float | None,
        CostLimit(
            "latency",
            "At most this long for one more token of every sequence, under that load, such as 30ms.",
            parse_milliseconds,
            most=1e9,
            number=float,
        ),
    ] = None
    min_speedup: Annotated[
        float | None,
        CostLimit(
            "time",
            "At least this many times the dense model's tokens a second, under that load.",
            most=1e6,
            number=float,
            above=1.0,
            inverse=True,
        ),
    ] = None
    max_divergence: float | None = None
    preference: tuple[float, float] | None = None
    over: tuple[str, str] | None = None
    context: Context | None = None
    batch: Batch | None = None
    cache_dtype: CacheDtype | None = None
    phase: Phase | None = None

    @classmethod
    def of(cls, /, **fields: Any) -> Self:  # noqa: ANN401 - validated right here
        """Build a request from keyword fields.

        Raises:
            RequestError: If no field is given, or a value is out of its range.
        """
        try:
            return cls(**fields)
        except ValidationError as error:
            unknown = any(entry["type"] == "extra_forbidden" for entry in error.errors())
            hint = f"; a request has one or more of {', '.join(KINDS)}" if unknown else ""
            raise RequestError(explain(error) + hint) from error

    @field_validator("*", mode="before")
    @classmethod
    def _read_unit(cls, value: object, info: ValidationInfo) -> object:
        field = info.field_name or ""
        limit = LIMITS.get(field)
        return limit.read(value, field) if limit and limit.read and isinstance(value, str) else value

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
        if not value > limit.above:
            least = f"above {limit.above:g}" if limit.above else "positive"
            raise ValueError(f"{info.field_name} must be {least}, got {quoted(value)}")
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
    def _check_any(self) -> Self:
        if not self.kinds:
            raise ValueError(f"a request has one or more of {', '.join(KINDS)}; got none")
        asks = next((name for name in LOADED if getattr(self, name) is not None), "")
        asks = asks or ("over" if _UNDER_LOAD & {*(self.over or ())} else "")
        detail = next((name for name in ("batch", "cache_dtype") if getattr(self, name) is not None), asks)
        if self.context is None and detail:
            raise ValueError(f"{detail} needs context, the tokens of a sequence, such as 8192; got none")
        if self.phase is not None and "time" not in self.costs:
            raise ValueError(f"phase says what min_speedup is of, got {quoted(self.phase)} and no min_speedup")
        if self.over is not None:
            known = [*dict.fromkeys(limit.cost for limit in LIMITS.values()), DIVERGENCE]
            if self.preference is None:
                raise ValueError(f"over says what a preference weighs, got {quoted(self.over)} and no preference")
            if len(set(self.over)) < 2 or not set(self.over) <= set(known):
                raise ValueError(f"over must name two of {', '.join(known)}, got {quoted(self.over)}")
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the fields that are set."""
        return tuple(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def kind(self) -> str:
        """The same as one word: ``bits``, or ``max_bytes+max_divergence``."""
        return "+".join(self.kinds)

    @property
    def limited(self) -> bool:
        """Whether something must hold, beside a preference or without one."""
        return self.kinds != ("preference",)

    @property
    def load(self) -> Load | None:
        """What memory and time are counted under; None where neither is asked."""
        if self.context is None:
            return None
        return Load(self.context, self.batch or 1, self.cache_dtype, self.phase or "decode")

    @property
    def limits(self) -> dict[str, tuple[str, float]]:
        """The fields that limit a cost, each with the cost and the most of it."""
        given = {kind: (LIMITS[kind], getattr(self, kind)) for kind in self.kinds if kind in LIMITS}
        return {kind: (limit.cost, 1.0 / most if limit.inverse else most) for kind, (limit, most) in given.items()}

    @property
    def costs(self) -> frozenset[str]:
        """The costs that are limited or weighed."""
        return frozenset(cost for cost, _ in self.limits.values()) | frozenset(self.over or ())

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set as plain JSON data."""
        return self.model_dump(mode="json", exclude_none=True)


BESIDE = ("context", "batch", "cache_dtype", "phase")
"""The load of a request."""
LOADED = ("max_memory", "max_latency", "min_speedup")
"""The fields that need a load."""
_UNDER_LOAD = {"memory", "latency", "time"}  # the costs that do
KINDS: tuple[str, ...] = tuple(name for name in Request.model_fields if name not in ("over", *BESIDE))
"""The fields that can stand alone."""
LIMITS: Mapping[str, CostLimit] = {
    name: found
    for name, field in Request.model_fields.items()
    for found in field.metadata
    if isinstance(found, CostLimit)
}
"""The fields that limit a cost."""
