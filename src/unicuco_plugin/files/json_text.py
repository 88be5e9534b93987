"""Data as JSON that any reader takes: JSON has no NaN and no infinity."""

import json
import math
from collections.abc import Mapping

__all__ = ["json_text"]


def json_text(data: object, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """Write plain data as JSON; numbers that are not finite become null.

    Args:
        data: Mappings with names, lists, tuples, texts, numbers, None.
        indent: As in :func:`json.dumps`.
        ascii_only: Whether other characters are escaped.
    """
    return json.dumps(_plain(data), indent=indent, ensure_ascii=ascii_only, allow_nan=False)


def _plain(data: object) -> object:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {name: _plain(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    return data
