"""What requests are measured in: limits on costs, numbers with a unit, as people write them, loads and needs."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema

from unicuco_plugin.errors import RequestError, explain, quoted
from unicuco_plugin.frozen import Frozen

__all__ = [
    "Batch",
    "CacheDtype",
    "Context",
    "CostLimit",
    "Engine",
    "Latency",
    "Load",
    "LoadFields",
    "Memory",
    "Milliseconds",
    "Phase",
    "parse_bytes",
    "parse_milliseconds",
    "parse_tokens",
]

Phase: TypeAlias = Literal["decode", "prefill"]
"""One more token of every sequence, or all tokens of a prompt."""
Engine: TypeAlias = Literal["transformers", "vllm"]
"""What runs a model while it is timed."""
CacheDtype: TypeAlias = Literal["float32", "bfloat16", "float16", "fp8"]
"""What keys and values may be kept in."""
Context = Annotated[int, Field(gt=0, le=10**7)]
Batch = Annotated[int, Field(gt=0, le=10**4)]
Milliseconds = Annotated[float, Field(gt=0.0, le=1e9)]
_Name = Annotated[str, Field(max_length=1000)]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SECONDS = {"us": Decimal("0.001"), "ms": Decimal(1), "s": Decimal(1000)}  # in milliseconds
_LONGEST_NUMBER = 40  # characters of a number of bytes; what is longer is no number that anybody means


@dataclass(frozen=True)
class Load:
    """How much a server holds at once.

    Attributes:
        context: Tokens of a sequence, those that are written included.
        batch: Sequences.
        cache_dtype: What keys and values are kept in; the model's own dtype if None.
        phase: What is to be faster, where speed is asked for.
    """

    context: int
    batch: int = 1
    cache_dtype: CacheDtype | None = None
    phase: Phase = "decode"

    def to_fields(self, *, phase: bool = False) -> dict[str, Any]:
        """As fields of a request, but for those that are as they would be anyhow.

        Args:
            phase: Whether the request is one that has a phase: that asks for speed.
        """
        fields = {"context": self.context, "batch": self.batch, "cache_dtype": self.cache_dtype}
        usual = {"batch": 1, "cache_dtype": None, "phase": "decode"}
        given = fields | ({"phase": self.phase} if phase else {})
        return {name: value for name, value in given.items() if name not in usual or value != usual[name]}


class LoadFields(Frozen):
    """A load as users give it.

    Attributes:
        context: Tokens of a sequence, those that are written included; nothing is counted without it.
        batch: Sequences at once.
        cache_dtype: What keys and values are kept in; the model's own dtype if None.
        phase: What is to be faster, where speed is asked for: tokens that are written, or read.
    """

    context: Context | None = None
    batch: Batch = 1
    cache_dtype: CacheDtype | None = None
    phase: Phase = "decode"

    @classmethod
    def read(cls, **fields: Any) -> Load | None:  # noqa: ANN401 - validated right here
        """Read the fields that are given.

        Raises:
            RequestError: If one is out of its range, or there is no context.
        """
        try:
            return cls(**fields).load
        except ValidationError as error:
            raise RequestError(explain(error)) from error

    @model_validator(mode="after")
    def _check_context(self) -> Self:
        if self.context is None and self.model_fields_set:
            other = next(name for name in type(self).model_fields if name in self.model_fields_set)
            raise ValueError(f"{other} needs context, the tokens of a sequence, such as 8192; got none")
        return self

    @property
    def load(self) -> Load | None:
        """None where nothing is to be counted."""
        return None if self.context is None else Load(self.context, self.batch, self.cache_dtype, self.phase)


@dataclass(frozen=True)
class CostLimit:
    """Says of a request's field that it limits a cost; with the field itself, all that a new limit takes here.

    Attributes:
        cost: The cost's name, see ``costs.model``.
        text: What the command line says of it.
        read: Turns text, such as a number with a unit, and the field's name into the number; None where there is only
            the number.
        most: The largest that makes sense.
        number: What it is.
        above: What it must exceed.
        inverse: Whether the field is the least that the cost's reciprocal may be: of a speed, whose cost is time.
    """

    cost: str
    text: str
    read: Callable[[str, str], float] | None = None
    most: float = 10**18  # parameters or bytes: a million times the largest models of today
    number: type[int] | type[float] = int
    above: float = 0.0
    inverse: bool = False

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Also says what the field means, and that it takes text."""
        schema: dict[str, Any] = {**handler(core), "description": self.text}
        if self.read is not None:
            schema["anyOf"] = [*schema["anyOf"], {"type": "string", "maxLength": _LONGEST_NUMBER}]
        return schema


class Memory(Frozen):
    """Bytes that a server needs under the load of the request.

    Attributes:
        weights: As many as the checkpoint's.
        cache: What is kept for all sequences.
        buffers: For one step: the states where it is widest, and the logits.
    """

    weights: int = Field(ge=0)
    cache: int = Field(ge=0)
    buffers: int = Field(ge=0)

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.cache + self.buffers


class Latency(Frozen):
    """What a model takes to run under the load of the request, in milliseconds, added up from a device's table.

    Attributes:
        decode: One more token of every sequence.
        prefill: All tokens of them.
        dense_decode, dense_prefill: The same of the dense model, as measured.
        scale_decode, scale_prefill: What the table's corrections multiplied the first two by.
        device: Name of the processor or accelerator.
        dtype: Of the weights there.
        engine: What ran the model when it was timed.
    """

    decode: Milliseconds
    prefill: Milliseconds
    dense_decode: Milliseconds
    dense_prefill: Milliseconds
    scale_decode: Milliseconds = 1.0
    scale_prefill: Milliseconds = 1.0
    device: _Name
    dtype: _Name
    engine: Engine = "transformers"


def parse_bytes(text: str, field: str = "max_bytes") -> int:
    """Read ``6000000``, ``6GB`` or ``5.5 GiB`` as a number of bytes.

    Raises:
        RequestError: If the text is not a positive number with an optional unit (kB … TB are powers of 1000,
            KiB … TiB powers of 1024), in at most 40 characters.
    """
    count = _parse(text, "b?")
    if count <= 0:
        raise RequestError(f"{field} must be a number of bytes such as 6000000, 6GB or 5.5GiB, got {quoted(text)}")
    return count


def parse_tokens(text: str, field: str = "tokens") -> int:
    """Read ``500000``, ``500k`` or ``1.5M`` as a number of tokens.

    Raises:
        RequestError: If the text is not a positive number with an optional unit, in at most 40 characters.
    """
    count = _parse(text, "")
    if count <= 0:
        raise RequestError(f"{field} must be a number of tokens such as 500000, 500k or 1.5M, got {quoted(text)}")
    return count


def _parse(text: str, last: str) -> int:
    """A number with a unit, behind which ``last`` may stand; 0 where it is none."""
    pattern = rf"\s*([0-9]*\.?[0-9]+(?:e[0-9]{{1,2}})?)\s*([kmgt]?i?){last}\s*"
    # The pattern tries every way to split a run of digits: the time it takes grows with the square of their number.
    match = re.fullmatch(pattern, text, flags=re.IGNORECASE) if len(text) <= _LONGEST_NUMBER else None
    # Decimal, because a float would round counts above 2**53.
    return int(Decimal(match[1]) * _UNITS.get(match[2].lower(), 0)) if match else 0


def parse_milliseconds(text: str, field: str = "max_latency") -> float:
    """Read ``30ms``, ``0.03 s`` or ``250us`` as milliseconds.

    Raises:
        RequestError: If the text is not a positive number with a unit, in at most 40 characters.
    """
    pattern = r"\s*([0-9]{0,12}\.?[0-9]{1,12})\s*(us|ms|s)\s*"
    match = re.fullmatch(pattern, text) if len(text) <= _LONGEST_NUMBER else None
    found = float(Decimal(match[1]) * _SECONDS[match[2]]) if match else 0.0
    if found <= 0:
        raise RequestError(f"{field} must be a time with a unit, such as 30ms, 0.03s or 250us, got {quoted(text)}")
    return found
