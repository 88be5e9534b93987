"""What is common to spaces whose units stay or go as a whole: names, keys and rows of zeros and ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from unicuco_plugin.errors import StrategyError, quoted
from unicuco_plugin.spaces.weighted import WeightedUnits

__all__ = ["WholeSets", "row_of", "stays"]

# Exchanges of a removed unit with a kept one are listed: a quarter of the square of the units, each as long as they.
_MOST_UNITS = 640


def stays(groups: Sequence[Sequence[int]], what: str, *, needed: bool) -> str:
    """Say what has to stay: one of each group of units, each called ``what``."""
    counts = " and ".join(f"one of {len(group)} {what}s" for group in groups)
    return f"{counts}{' that generation needs' if needed else ''} {'has' if len(groups) == 1 else 'have'} to stay"


def row_of(count: int, removed: Iterable[int]) -> Tensor:
    """A strategy, ``count`` float64 entries, 1 at the removed places."""
    x = torch.zeros(count, dtype=torch.float64)
    x[list(removed)] = 1.0
    return x


@dataclass(frozen=True)
class WholeSets(WeightedUnits):
    """Strategies as sets of units: ``x_i`` is 1 where unit ``i`` is removed, else 0.

    Attributes:
        unit_names: Full module names of the ``d`` units, in the order of the model.
        unit_params: Parameters of each.
        needed: Groups of indices; of each at least one unit stays, of all units where there is no group.
        what: What a unit is called.

    Raises:
        StrategyError: If there are fewer than two units or more than 640.
    """

    unit_names: tuple[str, ...]
    unit_params: tuple[int, ...]
    needed: tuple[tuple[int, ...], ...] = ()
    name: str = ""
    what: str = "unit"
    smooth: bool = False
    stepped: bool = False
    physical: bool = False
    scales: tuple[int, ...] = ()
    bounds: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        count = len(self.unit_names)
        if not 1 < count <= _MOST_UNITS:
            raise StrategyError(f"a space of {self.what}s must have 2 to {_MOST_UNITS} of them, got {count}")

    @cached_property
    def features(self) -> Tensor:
        """The identity: removing a unit is one coordinate, so the kernel is a weighted Hamming distance."""
        return torch.eye(len(self.units), dtype=torch.float64)

    def moved(self, X: Tensor, sparsity: float) -> Tensor:
        """The strategies as they are: half a unit cannot go."""
        return X

    def to_units(self, x: Tensor) -> dict[str, float]:
        """Name the removed units of one strategy, ``d``."""
        return {self.units[i]: 1.0 for i in x.nonzero()[:, 0].tolist()}

    def from_units(self, units: Mapping[str, float]) -> Tensor:
        """The inverse of ``to_units``, ``d``.

        Raises:
            StrategyError: If a unit is unknown or a share is not 0 or 1.
        """
        for name, share in units.items():
            if name not in self.units or share not in (0.0, 1.0):
                raise StrategyError(f"units[{quoted(name)}] must be a known {self.what} with share 0 or 1, got {share}")
        return row_of(len(self.units), [self.units.index(name) for name, share in units.items() if share])

    def key(self, x: Tensor) -> str:
        """Indices of the removed units, such as ``"3,14,15"``."""
        return ",".join(str(i) for i in x.nonzero()[:, 0].tolist())

    def parse(self, key: str) -> Tensor:
        """The inverse of ``key``, ``d``."""
        return row_of(len(self.units), [int(part) for part in key.split(",") if part])
