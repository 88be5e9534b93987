"""Which counts of zeros the toolkit's one-shot passes can make in one linear, and the nearest to a planned one.

Symbols: a linear has ``r`` rows (outputs) and ``c`` columns (inputs), ``s`` is the toolkit's ``sparsity``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor
from typing import TypeAlias

from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier

__all__ = ["ENGINES", "Follower", "Setting", "round_plan", "tolerance"]

Follower: TypeAlias = SparseGPTModifier | WandaPruningModifier
ENGINES: tuple[type[Follower], ...] = (SparseGPTModifier, WandaPruningModifier)

# SparseGPT zeroes every weight that scores no more than the threshold, and in bfloat16 several of a column may score
# alike: about 0.003 / c of a linear's weights for normally distributed ones, less than this share from c = 30 on.
_TIES = 1e-4
# Steps of a full block looked at on either side of the planned share; the nearest count is within the next two.
_NEAR = 3


@dataclass(frozen=True)
class Setting:
    """What to tell the toolkit for one linear.

    Attributes:
        sparsity: The toolkit's ``sparsity``; 0.0 stands for leaving the linear out.
        count: Weights that it then zeroes.
    """

    sparsity: float
    count: int


def round_plan(follower: Follower, count: int, rows: int, columns: int) -> Setting:
    """Find the setting of a modifier whose count is nearest to a planned one; the smaller of two equally near.

    SparseGPT zeroes ``int(n s) + 1`` weights of every block of ``n = r x block_size`` (the last block may be
    narrower), Wanda ``int(c s)`` of every row. The ``s`` given lies in the middle of its step, where no rounding of
    floating-point numbers can change the count.

    Args:
        follower: The modifier that will zero the weights.
        count: Planned zeros, in [0, rows x columns].
        rows: Output features of the linear.
        columns: Input features.
    """
    if isinstance(follower, WandaPruningModifier):
        return _round_rows(count, rows, columns)
    return _round_blocks(count, _block_sizes(rows, columns, follower.block_size))


def tolerance(follower: Follower, rows: int, columns: int) -> int:
    """How many weights the achieved count may lie from the planned one.

    SparseGPT: counts that it can make lie at most one weight per block apart, two blocks' where full and narrow blocks
    step together, so the nearest is off by half a weight per block; as much again, and 1e-4 of the weights, is left for
    equal scores. As a share that is ``1e-4 + ceil(c / 128) / (r c)``. Wanda: one weight per row, ``1 / c``, of which
    rounding takes half.
    """
    if isinstance(follower, WandaPruningModifier):
        return rows
    return int(_TIES * rows * columns) + len(_block_sizes(rows, columns, follower.block_size))


def _block_sizes(rows: int, columns: int, width: int) -> list[int]:
    return [rows * min(width, columns - start) for start in range(0, columns, width)]


def _round_rows(count: int, rows: int, columns: int) -> Setting:
    each, over = divmod(count, rows)
    each += 2 * over > rows
    if each in (0, columns):
        return Setting(each / columns, each * rows)
    return Setting((each + 0.5) / columns, each * rows)


def _round_blocks(count: int, sizes: list[int]) -> Setting:
    best = Setting(0.0, 0)
    for share in _steps(count / sum(sizes), set(sizes)):
        made = sum(int(size * share) + 1 for size in sizes)
        if abs(made - count) < abs(best.count - count):
            best = Setting(share, made)
    return best


def _steps(share: float, sizes: set[int]) -> Iterator[float]:
    """The middle of every step near a share, rising; within one step no block's count changes."""
    reach = _NEAR / max(sizes)
    low, high = max(share - reach, 0.0), min(share + reach, 1.0)
    edges = sorted({step / size for size in sizes for step in range(ceil(size * low), floor(size * high) + 1)})
    yield from ((left + right) / 2 for left, right in pairwise(edges))
