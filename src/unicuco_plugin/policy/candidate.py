"""One strategy in the race for a budget."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from unicuco_plugin.strategy import Source

__all__ = ["Candidate", "safest"]


@dataclass(frozen=True)
class Candidate:
    """One strategy in the race.

    Attributes:
        x: ``d`` shares.
        source: Who proposed it.
        mean: Logarithm of its divergence on the ranking windows, where all candidates compare.
        std: Standard deviation of that.
        key: Its identity.
    """

    x: Tensor
    source: Source
    mean: float
    std: float
    key: str

    @property
    def cautious(self) -> float:
        """The mean and one standard deviation: among many predictions the lowest is the luckiest."""
        return self.mean + self.std


def safest(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate with the lowest cautious estimate; the first among equals."""
    return min(candidates, key=lambda candidate: candidate.cautious)
