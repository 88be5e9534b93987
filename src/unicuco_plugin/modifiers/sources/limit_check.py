"""Requested limits compared with the checkpoint."""

from collections.abc import Sequence

from unicuco_plugin.errors import ExportError, RecipeError
from unicuco_plugin.strategy import Strategy

__all__ = ["check_limits", "check_shape"]

_SIZES = ("max_params", "max_bytes")


def check_limits(strategies: Sequence[Strategy], params: int, size: int) -> None:
    """Refuse a checkpoint that is larger than a request allows.

    Args:
        strategies: Those that made it, with their requests.
        params: Parameters that it has.
        size: Bytes of its weight files.

    Raises:
        ExportError: If it has more than was asked: weights in another dtype than the profile counts in, or biases that
            the profile does not know of.
    """
    found = dict(zip(_SIZES, (params, size), strict=True))
    for strategy in strategies:
        kind = strategy.request.kind
        limit = getattr(strategy.request, kind) if kind in _SIZES else None
        if limit is not None and found[kind] > limit:
            raise ExportError(
                f"{kind} must be met: {limit:,} was requested, the checkpoint would have {found[kind]:,}. A profile "
                "counts the dtype and the biases it was trained with: leave out --dtype and --compensate, or request "
                "less"
            )


def check_shape(strategies: Sequence[Strategy], layout: str) -> None:
    """Refuse a limit on the size of a checkpoint that will have the dense model's shape.

    Raises:
        RecipeError: If a structured strategy answers such a limit and ``layout`` is ``stock``.
    """
    for strategy in strategies:
        if layout == "stock" and strategy.traits.cuts and strategy.request.kind in _SIZES:
            raise RecipeError(
                f"{strategy.request.kind} cannot be met with format stock, which is as large as the dense model; take "
                "format compact, or ask for sparsity"
            )
