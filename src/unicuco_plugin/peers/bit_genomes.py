r"""EvoPress's genomes of bits: for every unit a place on its ladder of schemes, from most bits to least.

====== ===== ==================================================================
symbol shape meaning
====== ===== ==================================================================
g      d     places
step   d x l bits that a unit saves from each place to the next, whole numbers
====== ===== ==================================================================
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from unicuco_plugin.errors import RequestError
from unicuco_plugin.peers.evolution import Genome
from unicuco_plugin.peers.minibatch import mean_over
from unicuco_plugin.schemes import DENSE_BITS
from unicuco_plugin.spaces.precision import PrecisionSpace

__all__ = ["BitProblem"]

# Draws for each genome before a space is taken to have no more distinct ones, and of an exchange before there is taken
# to be none: where one in a hundred is possible, missing it has a chance of 4e-5.
_TRIES = 1000
# Of a whole number of bits, what float64 may lose on the way to a share.
_LOST = 1e-3


@dataclass(frozen=True)
class BitProblem:
    """Schemes of the units of one model at one budget.

    Attributes:
        space: Over the units.
        sparsity: Share of 16 bits to save, at least.
        divergences: Measures strategies, unit → scheme, on windows.
    """

    space: PrecisionSpace
    sparsity: float
    divergences: Callable[[Sequence[Mapping[str, str]], Tensor], list[float]]

    def first(self, count: int, random: np.random.Generator) -> list[Genome]:
        """At most ``count`` distinct genomes: random steps onto the budget from the nearest single scheme."""
        found: dict[Genome, None] = {}
        for _ in range(_TRIES):
            found[self._settle(list(self._nearest), random)] = None
            if len(found) == count:
                break
        return list(found)

    def mutate(self, parent: Genome, random: np.random.Generator) -> Genome:
        """Make ``min(U{1..3}, U{1..3})`` exchanges of equal bits between units of equal size.

        Raises:
            RequestError: If no two units can exchange any.
        """
        child = list(parent)
        for _ in range(int(random.integers(1, 4, size=2).min())):
            down, up = self._exchange(child, random)
            child[down] += 1
            child[up] -= 1
        return tuple(child)

    def measure(self, genomes: Sequence[Genome], batches: Sequence[Tensor]) -> list[float]:
        """Divergence of each genome, put together from the level database."""
        plans = [self.space.to_units(self.row(genome)) for genome in genomes]
        return mean_over(batches, lambda windows: self.divergences(plans, windows))

    def row(self, genome: Genome) -> Tensor:
        """The strategy, ``d`` shares."""
        shares = [1.0 - row[place][1] / DENSE_BITS for row, place in zip(self.space.choices, genome, strict=True)]
        return torch.tensor(shares, dtype=torch.float64)

    @cached_property
    def _steps(self) -> list[list[int]]:
        sized = zip(self.space.unit_params, self.space.choices, strict=True)
        return [[round(n * (wide[1] - narrow[1])) for wide, narrow in pairwise(row)] for n, row in sized]

    @cached_property
    def _target(self) -> int:
        """Bits to save."""
        self.space.reaching(self.sparsity)
        return math.ceil(self.sparsity * DENSE_BITS * sum(self.space.unit_params) - _LOST)

    @cached_property
    def _nearest(self) -> Genome:
        rows = [torch.zeros(len(self.space.units), dtype=torch.float64), *self.space.uniform().values()]
        row = min(rows, key=lambda x: abs(self.space.sparsity(x[None]).item() - self.sparsity))
        return tuple(self.space.places(row).tolist())

    def _settle(self, g: list[int], random: np.random.Generator) -> Genome:
        """Random steps down until the budget is met, then random steps up as long as it still is."""
        spare = sum(sum(steps[:place]) for steps, place in zip(self._steps, g, strict=True)) - self._target
        while spare < 0:
            unit = int(random.choice([u for u, place in enumerate(g) if place < len(self._steps[u])]))
            spare += self._steps[unit][g[unit]]
            g[unit] += 1
        while able := [u for u, place in enumerate(g) if place and self._steps[u][place - 1] <= spare]:
            unit = int(random.choice(able))
            g[unit] -= 1
            spare -= self._steps[unit][g[unit]]
        return tuple(g)

    def _exchange(self, g: Sequence[int], random: np.random.Generator) -> tuple[int, int]:
        sizes, steps = self.space.unit_params, self._steps
        for _ in range(_TRIES):
            down = int(random.integers(len(g)))
            if g[down] == len(steps[down]):
                continue
            able = [
                up
                for up, place in enumerate(g)
                if up != down and sizes[up] == sizes[down] and place and steps[up][place - 1] == steps[down][g[down]]
            ]
            if able:
                return down, int(random.choice(able))
        raise RequestError(
            f"evopress exchanges bits between units of equal size, and no two can at sparsity {self.sparsity:.6g}"
        )
