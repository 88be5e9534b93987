r"""EvoPress's genomes of non-uniform sparsity: one integer level for every linear.

====== ===== ==================================================================
symbol shape meaning
====== ===== ==================================================================
n      d     weights of each linear
b      d     zeros of each at level 0: the uniform plan
step         weights of one level, the same for every linear
g      d     levels; zeros are ``b + step g``, so the sum of levels stays 0
====== ===== ==================================================================
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from unicuco_plugin.errors import RequestError
from unicuco_plugin.objectives.levelled import LevelEvaluator
from unicuco_plugin.objectives.room import Room
from unicuco_plugin.peers.evolution import Genome
from unicuco_plugin.peers.minibatch import mean_over
from unicuco_plugin.scores.budget import BOUNDS
from unicuco_plugin.spaces.plan import plan_counts

__all__ = ["Evaluators", "LevelProblem", "level_step", "uniform_counts"]

# EvoPress moves 10^6 weights at a time in models whose hidden size is 4096; its database ends 8 levels either way.
_STEP, _HIDDEN = 1_000_000, 4096
_LEVELS = 8
# Draws of a linear whose level can move before there is taken to be none: where one in a hundred can, missing it has a
# chance of 4e-5.
_TRIES = 1000


def level_step(hidden_size: int) -> int:
    """Weights of one level: EvoPress's step, scaled by the area of a square projection.

    A level then is the same share of a linear as in the models of 7B parameters that EvoPress was tuned on: 6 % of a
    square projection, a quarter of one of grouped keys.
    """
    return max(1, round(_STEP * hidden_size**2 / _HIDDEN**2))


def uniform_counts(sizes: Mapping[str, int], sparsity: float) -> dict[str, int]:
    """Zeros of every linear at level 0; their sum is the budget to one weight."""
    return plan_counts(dict.fromkeys(sizes, sparsity), sizes)


@dataclass(frozen=True)
class LevelProblem:
    """Levels of the linears of one model at one budget.

    Attributes:
        sizes: Weights of every linear, in order.
        base: Zeros of each at level 0.
        step: Weights of one level.
        evaluators: Measure plans.
    """

    sizes: Mapping[str, int]
    base: Mapping[str, int]
    step: int
    evaluators: "Evaluators"

    def first(self, count: int, random: np.random.Generator) -> list[Genome]:
        """The uniform plan alone, whatever is asked."""
        return [(0,) * len(self.sizes)]

    def mutate(self, parent: Genome, random: np.random.Generator) -> Genome:
        """Make ``min(U{1..3}, U{1..3})`` exchanges: one linear's level down by one, another's up.

        Raises:
            RequestError: If no linear's level can move.
        """
        child = list(parent)
        for _ in range(int(random.integers(1, 4, size=2).min())):
            child[self._draw(child, -1, random)] -= 1
            child[self._draw(child, +1, random)] += 1
        return tuple(child)

    def measure(self, genomes: Sequence[Genome], batches: Sequence[Tensor]) -> list[float]:
        """Divergence of each genome, stitched from the level database."""
        plans = [self.plan(genome) for genome in genomes]
        return mean_over(batches, lambda windows: self.evaluators.measure(plans, windows))

    def plan(self, genome: Genome) -> dict[str, int]:
        """Zeros of every linear."""
        return {name: zeros + self.step * level for (name, zeros), level in zip(self.base.items(), genome, strict=True)}

    def _draw(self, genome: Sequence[int], move: int, random: np.random.Generator) -> int:
        names = list(self.sizes)
        for _ in range(_TRIES):
            index = int(random.integers(len(names)))
            level = genome[index] + move
            zeros = self.base[names[index]] + self.step * level
            if abs(level) <= _LEVELS and 0 <= zeros <= BOUNDS[1] * self.sizes[names[index]]:
                return index
        raise RequestError(f"no linear can move by a level of {self.step:,} weights: the model is too small for it")


class Evaluators:
    """Evaluators of stitched plans on any windows; all share decoded levels.

    Args:
        first: An evaluator on any windows.
        room: Measures as many plans at a time as there is memory for.
    """

    def __init__(self, first: LevelEvaluator, room: Room) -> None:
        self._first, self._room = first, room
        self._of_length: dict[int, LevelEvaluator] = {}

    def measure(self, plans: Sequence[Mapping[str, int]], windows: Tensor) -> list[float]:
        """Divergence of each plan on some windows."""
        length = windows.shape[1]
        evaluator = self._of_length.get(length, self._first).on(windows)
        self._of_length[length] = evaluator
        return [found.value for found in self._room.measure(evaluator.evaluate, plans)]
