"""What is common to spaces whose units stay or go as a whole: names, keys, rows of zeros and ones, and their moves.

Moves are written as flips: numbers ``row`` of strategies, ``m`` of them, and for each the units that change sides,
``m x f``; where a move flips fewer than ``f``, its last places hold ``d``, which is no unit.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from unicuco_plugin.errors import StrategyError, quoted

__all__ = ["check_count", "flip", "key_of", "moves_of", "named_units", "parse_key", "row_of", "stays", "units_of"]


# Exchanges of a removed unit with a kept one are listed: a quarter of the square of the units, each as long as they.
_MOST_UNITS = 640


def check_count(count: int, what: str) -> None:
    """Refuse so many units that their exchanges would not fit into memory, or too few to remove one of.

    Raises:
        StrategyError: If ``count`` is below 2 or above 640; ``what`` is what a unit is called.
    """
    if not 1 < count <= _MOST_UNITS:
        raise StrategyError(f"a space of {what} must have 2 to {_MOST_UNITS} of them, got {count}")


def stays(groups: Sequence[Sequence[int]], what: str, *, needed: bool) -> str:
    """Say what has to stay: one of each group of units, each called ``what``."""
    counts = " and ".join(f"one of {len(group)} {what}s" for group in groups)
    return f"{counts}{' that generation needs' if needed else ''} {'has' if len(groups) == 1 else 'have'} to stay"


def row_of(count: int, removed: Iterable[int]) -> Tensor:
    """A strategy, ``count`` float64 entries, 1 at the removed places."""
    x = torch.zeros(count, dtype=torch.float64)
    x[list(removed)] = 1.0
    return x


def flip(x: Tensor, units: Tensor) -> Tensor:
    """Strategies ``m x d`` after the flips ``m x f``."""
    there = torch.cat([x, x.new_zeros(len(x), 1)], 1)
    return there.scatter(1, units, 1.0 - there.gather(1, units))[:, :-1]


def moves_of(x: Tensor, row: Tensor, units: Tensor) -> Tensor:
    """What flips make of each strategy, ``p x d`` to ``p x moves x d``; where one has fewer, it repeats itself."""
    order = row.argsort(stable=True)
    row, count = row[order], row.bincount(minlength=len(x))
    place = torch.arange(len(row)) - (count.cumsum(0) - count)[row]
    moves = x[:, None].repeat(1, int(count.max()), 1)
    moves[row, place] = flip(x[row], units[order])
    return moves


def units_of(units: Sequence[str], x: Tensor) -> dict[str, float]:
    """Name the removed units of one strategy, ``d``."""
    return {units[i]: 1.0 for i in x.nonzero()[:, 0].tolist()}


def named_units(units: Sequence[str], given: Mapping[str, float], what: str) -> Tensor:
    """The inverse of :func:`units_of`, ``d``.

    Raises:
        StrategyError: If a name is no unit or a share is not 0 or 1; ``what`` is what a unit is called.
    """
    for name, share in given.items():
        if name not in units or share not in (0.0, 1.0):
            raise StrategyError(f"units[{quoted(name)}] must be a known {what} with share 0 or 1, got {share}")
    return row_of(len(units), [units.index(name) for name, share in given.items() if share])


def key_of(x: Tensor) -> str:
    """Indices of the removed units, such as ``"3,14,15"``."""
    return ",".join(str(i) for i in x.nonzero()[:, 0].tolist())


def parse_key(count: int, key: str) -> Tensor:
    """The inverse of :func:`key_of`, ``count`` entries."""
    return row_of(count, [int(part) for part in key.split(",") if part])
