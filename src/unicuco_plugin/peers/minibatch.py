"""Minibatches of calibration windows, drawn anew at every selection."""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from unicuco_plugin.errors import CalibrationError

__all__ = ["check_pool", "draw_minibatch", "mean_over"]


def check_pool(windows: Tensor, tokens: Sequence[int]) -> None:
    """Refuse a pool that has fewer tokens than a minibatch.

    Raises:
        CalibrationError: If it is too small.
    """
    if windows.numel() < max(tokens):
        raise CalibrationError(
            f"windows must hold at least {max(tokens):,} tokens for minibatches of {max(tokens):,}, got "
            f"{windows.shape[0]} x {windows.shape[1]} = {windows.numel():,}; give more, or another setting"
        )


def draw_minibatch(windows: Tensor, tokens: int, random: np.random.Generator) -> list[Tensor]:
    """Draw distinct windows until they hold exactly so many tokens; the last is cut short where it must.

    Args:
        windows: The pool, ``m x L`` token ids.
        tokens: At least 1, at most ``m L``.
        random: Decides which.

    Returns:
        One tensor of whole windows and one of the cut one, of those that there are; ``tokens`` ids together.
    """
    whole, rest = divmod(tokens, windows.shape[1])
    drawn = random.permutation(len(windows))[: whole + (rest > 0)].tolist()
    batches = [windows[drawn[:whole]]] if whole else []
    return [*batches, windows[drawn[whole:], :rest]] if rest else batches


def mean_over(batches: Sequence[Tensor], measure: Callable[[Tensor], list[float]]) -> list[float]:
    """Mean per token of what ``measure`` finds for every candidate on each batch, a mean per token itself."""
    total = sum(batch.numel() for batch in batches)
    found = [[value * batch.numel() / total for value in measure(batch)] for batch in batches]
    return [sum(values) for values in zip(*found, strict=True)]
