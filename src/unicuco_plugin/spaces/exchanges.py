"""Exchanges of steps between two units at one budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from unicuco_plugin.spaces.steps import Steps
from unicuco_plugin.spaces.units import name_block, name_kind

__all__ = ["Exchanges"]

# Partners of an exchange: so many places further among the units of its kind. A choice that spans the depth; not tuned.
_PLACES = (1, 3, 9)
# A preference among partners, in steps: far below one, far above what float64 loses.
_HINT = 1e-3


@dataclass(frozen=True)
class Exchanges:
    """One unit a step down and another a step up; units beside them make up a difference.

    Attributes:
        steps: Of the units.
        units: Their names.
    """

    steps: Steps
    units: tuple[str, ...]

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """Who gives a step and who takes one: units of one kind some places apart, and all units of one block."""
        pairs: dict[tuple[int, int], None] = {}
        for members in self._alike([name_kind(unit) for unit in self.units]):
            for place, one in enumerate(members):
                for far in _PLACES:
                    other = members[(place + far) % len(members)]
                    pairs |= dict.fromkeys(((one, other), (other, one)))
        for members in self._alike([name_block(unit) for unit in self.units]):
            pairs |= dict.fromkeys((one, other) for one in members for other in members)
        apart = torch.tensor([pair for pair in pairs if pair[0] != pair[1]], dtype=torch.long).view(-1, 2)
        return apart[:, 0], apart[:, 1]

    @staticmethod
    def _alike(labels: Sequence[str]) -> list[list[int]]:
        return [[place for place, own in enumerate(labels) if own == label] for label in dict.fromkeys(labels)]

    def of(self, k: Tensor, budget: float) -> Tensor:
        """All exchanges of one strategy, ``moves x d``; one that is not possible leaves it as it is.

        Args:
            k: ``d`` whole steps.
            budget: As :meth:`Steps.spend` counts it.
        """
        gives, takes = self.pairs
        rows, place = torch.arange(len(gives)), torch.arange(len(self.units))
        # Nearer units first, to give more where that is not enough, to take what is left where it is too much.
        hint = _HINT * (1.0 / (1.0 + (place - gives[:, None]).abs()) - 1.0 / (1.0 + (place - takes[:, None]).abs()))
        changed = k.repeat(len(gives), 1)
        changed[rows, gives] += 1.0
        changed[rows, takes] -= 1.0
        possible = ((k[gives] < self.steps.most[gives]) & (k[takes] > 0))[:, None]
        changed = torch.where(possible, changed, k)
        found = self.steps.settle(changed, changed + hint, changed + hint, budget)
        return torch.where(possible, found, k)
