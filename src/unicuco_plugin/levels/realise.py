"""A weight with an exact number of zeros, from the two levels on either side.

Rows are independent problems in SparseGPT, so whole rows of a level are as good in a mixture as they are in the level.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unicuco_plugin.errors import LevelsError
from unicuco_plugin.levels.linear import LinearLevels
from unicuco_plugin.models.tensors.sending import sent

__all__ = ["Mixture", "choose_rows", "realise"]


@dataclass(frozen=True)
class Mixture:
    """Which rows come from which of two neighbouring levels.

    Attributes:
        lower: The level most rows start from; 0 is dense.
        upper: ``R`` bools: rows taken from level ``lower + 1``.
        finish: The row of level ``lower`` that loses ``extra`` more weights; None lets the whole linear lose them.
        extra: Weights left to zero.
    """

    lower: int
    upper: Tensor
    finish: int | None = None
    extra: int = 0


def choose_rows(zeros: Tensor, losses: Tensor, count: int) -> Mixture:
    """Decide how a linear gets its count of zeros: rows whose zeros cost least go up a level first.

    Args:
        zeros: ``(E + 1) x R`` integers, zero weights of every row at every level; level 0 is dense.
        losses: ``(E + 1) x R``, loss of every row at every level.
        count: Zeros asked for, at least 0.

    Returns:
        A mixture with exactly ``count`` zeros, or the dense weight where that has more already.
    """
    totals = zeros.sum(1)
    none = torch.zeros(zeros.shape[1], dtype=torch.bool)
    if totals[0] >= count:
        return Mixture(0, none)
    within = (totals <= count).nonzero()[:, 0]
    lower = int(within[-1])
    need = count - int(totals[lower])
    if need == 0 or lower == len(zeros) - 1:
        return Mixture(lower, none, extra=need)
    gain = zeros[lower + 1] - zeros[lower]
    # A row that gains no zero is of no use; the others gain more than is needed, as the level above has too many.
    price = torch.where(gain > 0, (losses[lower + 1] - losses[lower]) / gain, torch.inf)
    order = price.argsort(stable=True)
    reached = gain[order].clamp_min(0).cumsum(0)
    taken = int((reached <= need).sum())
    upper = none.clone()
    upper[order[:taken]] = True
    extra = need - (int(reached[taken - 1]) if taken else 0)
    return Mixture(lower, upper, int(order[taken]) if extra else None, extra)


def realise(levels: LinearLevels, dense: Tensor, count: int, decode: Callable[[int], Tensor] | None = None) -> Tensor:
    """Build a linear's weight with exactly ``count`` zeros.

    Args:
        levels: The linear in the database.
        dense: Its ``R x C`` dense weight, in the database's dtype.
        count: Zeros asked for, in [0, R C].
        decode: Where decoded levels come from, for a cache; the database by default.

    Returns:
        A weight on the device of ``dense``; the dense one itself where that has as many zeros already, the decoded
        level itself where one has exactly so many: do not write to it.

    Raises:
        LevelsError: If ``count`` is out of range, the shapes or dtypes differ, or the file is damaged.
    """
    _check(levels, dense, count)
    decode = decode or (lambda level: levels.decode(level, dense.device))
    mixture = choose_rows(levels.zeros, levels.losses, count)
    weight = decode(mixture.lower) if mixture.lower else dense
    if weight.dtype != dense.dtype:
        raise LevelsError(f"level file {levels.path} holds {weight.dtype}, the model is {dense.dtype}")
    if not mixture.upper.any() and not mixture.extra:
        return weight
    if mixture.upper.any():
        weight = torch.where(sent(mixture.upper, dense.device)[:, None], decode(mixture.lower + 1), weight)
    else:
        weight = weight.clone()
    if mixture.extra:
        _zero_smallest(weight if mixture.finish is None else weight[mixture.finish], mixture.extra)
    return weight


def _zero_smallest(part: Tensor, count: int) -> None:
    """Zero the survivors of smallest magnitude, in place; the first of equals goes first."""
    magnitude = part.abs().float().flatten()
    magnitude.masked_fill_(magnitude == 0, torch.inf)  # an index by bools would wait for the device
    part.view(-1)[magnitude.argsort(stable=True)[:count]] = 0


def _check(levels: LinearLevels, dense: Tensor, count: int) -> None:
    rows, columns = levels.shape
    if tuple(dense.shape) != (rows, columns):
        raise LevelsError(f"level file {levels.path} is for a weight of {rows} x {columns}, got {tuple(dense.shape)}")
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= rows * columns:
        raise LevelsError(f"count of zeros must be an integer in [0, {rows * columns}], got {count!r}")
