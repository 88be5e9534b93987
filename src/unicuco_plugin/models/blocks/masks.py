"""Masks of attention that a model need not make."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["without_masks"]


@contextmanager
def without_masks(config: Any) -> Iterator[None]:  # noqa: ANN401 - Transformers is untyped
    """Let a model make no mask of attention, which blocks that compute nothing do not read.

    Transformers makes none for an implementation that it does not know; for those that it knows it looks into the
    positions first, and so waits for the device.
    """
    before = config._attn_implementation
    config._attn_implementation = "none"
    try:
        yield
    finally:
        config._attn_implementation = before
