"""Requested limits compared with the checkpoint."""

from collections.abc import Mapping, Sequence

import torch

from unicuco_plugin.errors import ExportError, ModelMismatchError, RecipeError
from unicuco_plugin.strategy import Strategy

__all__ = ["as_formed", "check_counted", "check_dtype", "check_limits", "check_shape"]


def check_limits(strategies: Sequence[Strategy], found: Mapping[str, int]) -> None:
    """Refuse a checkpoint that is larger than a request allows.

    Args:
        strategies: Those that made it, with their requests.
        found: Its costs by their names, as far as they can be counted: ``params``, ``bytes``.

    Raises:
        ExportError: If it has more than was asked: weights in another dtype than the profile counts in, or biases that
            the profile does not know of.
    """
    for strategy in strategies:
        has = dict(found)
        if strategy.memory is not None and "bytes" in found:
            has["memory"] = strategy.memory.total - strategy.memory.weights + found["bytes"]
        for kind, (cost, most) in strategy.request.limits.items():
            if has.get(cost, 0) > most:
                raise ExportError(
                    f"{kind} must be met: {most:,} was requested, the checkpoint would have {has[cost]:,}. A profile "
                    "counts the dtype and the biases it was trained with: leave out --dtype and --compensate, or "
                    "request less"
                )


def check_counted(strategies: Sequence[Strategy]) -> None:
    """Refuse, before any work, a strategy whose own units leave more than its request allows: one edited by hand.

    Raises:
        ExportError: See :func:`check_limits`.
    """
    for strategy in strategies:
        check_limits([strategy], {"params": strategy.params, "bytes": strategy.bytes})


def as_formed(strategy: Strategy, format: str, params: int, size: int) -> Strategy:
    """A strategy with what its checkpoint has in the form it got, and without times where it runs otherwise.

    A profile counts what is gone: ``stock`` keeps it, and ``deci`` lets halves go that others silence.

    Args:
        strategy: As it was answered.
        format: The form.
        params: Of the checkpoint.
        size: Its bytes.
    """
    if format not in ("stock", "deci") or not (strategy.traits.cuts or strategy.traits.halves):
        return strategy
    other = format == "stock" if strategy.traits.cuts else params < strategy.params
    times = {"latency": None} if other else {}
    return strategy.model_copy(update={"params": params, "bytes": size, **times})


def check_shape(strategies: Sequence[Strategy], format: str) -> None:
    """Refuse a limit on the size of a checkpoint that will have the dense model's shape.

    Raises:
        RecipeError: If a structured strategy answers such a limit and ``format`` is ``stock``.
    """
    for strategy in strategies:
        if format == "stock" and strategy.traits.cuts and strategy.request.limits:
            raise RecipeError(
                f"{' and '.join(strategy.request.limits)} cannot be met with format stock, which is as large as the "
                "dense model; take format compact, or ask for sparsity"
            )


def check_dtype(strategies: Sequence[Strategy], dtype: torch.dtype) -> None:
    """Refuse times of another dtype than the checkpoint's.

    Raises:
        ModelMismatchError: If a strategy's times were measured in one.
    """
    own = str(dtype).removeprefix("torch.")
    for strategy in strategies:
        if strategy.latency is not None and strategy.latency.dtype != own:
            timed = strategy.latency.dtype
            raise ModelMismatchError(
                f"the device table has times of {timed}, the model is in {own}: give --dtype {timed}, or profile "
                f"the device with --dtype {own}"
            )
