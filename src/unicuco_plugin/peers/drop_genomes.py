"""EvoPress's genomes of depth: a mask over blocks, or one over attentions and one over MLPs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from unicuco_plugin.peers.evolution import Genome
from unicuco_plugin.peers.minibatch import mean_over

__all__ = ["DropProblem"]

# Draws for each genome before a space is taken to have no more distinct ones: where half are left, missing one has a
# chance of 2 ** -50.
_TRIES = 50


@dataclass(frozen=True)
class DropProblem:
    """Masks of equal length, one after another in a genome, each with the same number removed (1).

    Attributes:
        length: Of one mask.
        masks: 1 for whole blocks, 2 for attentions and MLPs.
        removed: In each mask; in [1, length).
        divergences: Measures genomes on windows.
    """

    length: int
    masks: int
    removed: int
    divergences: Callable[[Sequence[Genome], Tensor], list[float]]

    def first(self, count: int, random: np.random.Generator) -> list[Genome]:
        """At most ``count`` distinct genomes, uniformly random."""
        possible = math.comb(self.length, self.removed) ** self.masks
        found: dict[Genome, None] = {}
        for _ in range(_TRIES * count):
            genome = np.zeros((self.masks, self.length), dtype=int)
            for mask in genome:
                mask[random.permutation(self.length)[: self.removed]] = 1
            found[tuple(genome.flatten().tolist())] = None
            if len(found) == min(count, possible):
                break
        return list(found)

    def mutate(self, parent: Genome, random: np.random.Generator) -> Genome:
        """Make ``min(U{1..3}, U{1..3})`` swaps of a kept and a removed position, each in one mask."""
        child = np.array(parent).reshape(self.masks, self.length)
        for _ in range(int(random.integers(1, 4, size=2).min())):
            mask = child[random.integers(self.masks)]
            goes, comes = random.choice((mask == 0).nonzero()[0]), random.choice((mask == 1).nonzero()[0])
            mask[goes], mask[comes] = 1, 0
        return tuple(child.flatten().tolist())

    def measure(self, genomes: Sequence[Genome], batches: Sequence[Tensor]) -> list[float]:
        """Divergence of each genome."""
        return mean_over(batches, lambda windows: self.divergences(genomes, windows))
