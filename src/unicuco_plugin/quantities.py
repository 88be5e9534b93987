"""What requests are measured in: limits on costs, numbers with a unit, as people write them, and a server's load."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema

from unicuco_plugin.errors import RequestError, quoted

__all__ = ["CostLimit", "Load", "parse_bytes", "parse_tokens"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_LONGEST_NUMBER = 40  # characters of a number of bytes; what is longer is no number that anybody means


@dataclass(frozen=True)
class Load:
    """How much a server holds at once.

    Attributes:
        context: Tokens of a sequence, those that are written included.
        batch: Sequences.
        cache_dtype: What keys and values are kept in; the model's own dtype if None.
    """

    context: int
    batch: int = 1
    cache_dtype: str | None = None


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
    """

    cost: str
    text: str
    read: Callable[[str, str], int] | None = None
    most: float = 10**18  # parameters or bytes: a million times the largest models of today
    number: type[int] | type[float] = int

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Also says what the field means, and that it takes text."""
        schema: dict[str, Any] = {**handler(core), "description": self.text}
        if self.read is not None:
            schema["anyOf"] = [*schema["anyOf"], {"type": "string", "maxLength": _LONGEST_NUMBER}]
        return schema


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
