"""Spaces of units that stay or go whole and differ in what they weigh; budgets are in parameters.

Sums of sizes leave gaps, so a request comes down to the least total that reaches it: no set of units reaches the share
with fewer parameters.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Generator, Tensor

from unicuco_plugin.errors import RequestError, StrategyError, round_down
from unicuco_plugin.spaces.removal import WholeSets, moves_of, row_of, stays
from unicuco_plugin.spaces.sublayer_moves import SublayerMoves
from unicuco_plugin.spaces.subsets import Subsets
from unicuco_plugin.spaces.units import number_blocks

__all__ = ["WholeUnits"]

# Shares are quotients of whole numbers: half a parameter of the largest models is far more.
_SLACK = 1e-12
# Draws for each of the first strategies before a space is taken to have no more distinct ones.
_TRIES = 20


@dataclass(frozen=True)
class WholeUnits(WholeSets):
    """Sets of units that differ in what they weigh; one unit always stays.

    Raises:
        StrategyError: If there are fewer than two units or more than 640, their sizes make more than a million sums, or
            one that is needed does not exist.
    """

    mixes_budgets: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        named = [index for group in self.needed for index in group]
        if not all(self.needed) or len(set(named)) < len(named) or not set(named) <= set(range(len(self.unit_names))):
            raise StrategyError(f"needed must be groups of indices in [0, {len(self.unit_names)}), got {self.needed}")
        if not len(self.sets.totals):
            raise StrategyError(f"a space of {self.what}s must have one that can go, got {len(self.unit_names)}")

    @cached_property
    def sets(self) -> Subsets:
        """Its strategies by what they weigh."""
        return Subsets(self.unit_params, self.needed)

    @cached_property
    def most(self) -> float:
        """The largest share that can go."""
        return int(self.sets.totals[-1]) / sum(self.unit_params)

    def _total(self, sparsity: float) -> int:
        """The fewest parameters that reach a share."""
        least = (sparsity - _SLACK) * sum(self.unit_params)
        totals = self.sets.totals
        # Totals are below 2^53: as float64 they are exact.
        place = int(torch.searchsorted(totals.double(), torch.tensor(least, dtype=torch.float64)))
        if place == len(totals):
            raise RequestError(
                f"sparsity must be at most {round_down(self.most)} for {self.name}: "
                f"{stays(self.sets.groups, self.what, needed=bool(self.needed))}, got {sparsity:.6g}"
            )
        return int(totals[place])

    def reaching(self, sparsity: float) -> float:
        """The share of the fewest parameters that reach it.

        Raises:
            RequestError: If it takes all units, or all that are needed.
        """
        return self._total(sparsity) / sum(self.unit_params)

    @cached_property
    def budgets(self) -> tuple[float, ...]:
        """What ``1/d, 2/d …`` come down to, as far as there is such a set; every budget between them can be met too."""
        d = len(self.units)
        wanted = [step / d for step in range(1, d) if step / d <= self.most + _SLACK]
        return tuple(sorted({self.reaching(share) for share in wanted or [self.most]}))

    def relax(self, logits: Tensor) -> Tensor:
        """Remove units in order of falling score, as many parameters as the sigmoids weigh; straight-through gradient.

        Source:
            As ``DepthSpace.relax``, which it equals where all units have one size.
        """
        soft = logits.sigmoid()
        scores = self._kept_last(logits.detach())
        order = scores.argsort(dim=-1, descending=True, stable=True)
        n = self.params[order]
        taken = n.cumsum(-1) - 0.5 * n < (soft.detach() @ self.params)[:, None]
        taken[:, 0], taken[:, -1] = True, False
        taken &= scores.gather(-1, order) > -torch.inf
        hard = torch.zeros_like(soft).scatter(-1, order, taken.to(soft))
        return hard + soft - soft.detach()

    def _kept_last(self, scores: Tensor) -> Tensor:
        """The scores, those of the lowest unit of each needed group below all others."""
        for group in self.needed:
            members = torch.tensor(group)
            lowest = members[scores[:, members].argmin(-1)]
            scores = scores.scatter(-1, lowest[:, None], -torch.inf)
        return scores

    def project(self, scores: Tensor, sparsity: float) -> Tensor:
        """Remove the set whose scores have the largest sum, of those with the fewest parameters that reach the share.

        That is the likeliest set at this budget where units go independently, with ``scores`` as log odds.

        Args:
            scores: ``p x d``.
            sparsity: Share of the units' parameters to remove, at least; in (0, 1).

        Raises:
            RequestError: If it takes all units, or all that are needed.
        """
        return self.sets.best(scores, self._total(sparsity))

    def near(self, X: Tensor, sparsity: float) -> Tensor:
        """The strategies that are at the budget already."""
        return (self.sparsity(X) - self.reaching(sparsity)).abs() < _SLACK

    def scores(self, x: Tensor) -> Tensor:
        """Log odds that are far above 0 for removed units and far below for kept ones."""
        return 40.0 * (x - 0.5)

    def first(self, count: int, generator: Generator, most: float = 1.0) -> Tensor:
        """Single units, at most half of all, evenly over the model; then random sets, ``count x d`` or fewer.

        Four in five sets are at a budget up to ``most``, the fifth at any, as in ``DepthSpace.first``.
        """
        d = len(self.units)
        able = [index for index in range(d) if (index,) not in self.needed]
        singles = min(len(able), max(1, count // 2))
        rows = [row_of(d, [able[index * len(able) // singles]]) for index in range(min(singles, count))]
        seen = {self.key(row) for row in rows}
        largest = max(1, sum(budget <= most + _SLACK for budget in self.budgets))
        for turn in range(_TRIES * count):
            if len(rows) >= count:
                break
            limit = len(self.budgets) if turn % 5 == 0 else largest
            budget = self.budgets[int(torch.randint(limit, (1,), generator=generator))]
            row = self.random(2, budget, generator)[turn % 2]  # of whole blocks and of single units in turn
            if self.key(row) not in seen:
                seen.add(self.key(row))
                rows.append(row)
        return torch.stack(rows)

    def random(self, count: int, sparsity: float, generator: Generator) -> Tensor:
        """Random sets at one budget, ``count x d``; repeats are possible.

        Rows 0, 2, … take whole blocks as far as the budget goes, the others random units of a random composition.
        """
        single = self.sets.random(count, self._total(sparsity), generator)
        worth = torch.rand(count, len(self.blocks.unique()), generator=generator, dtype=torch.float64)
        # Every parameter of a block is worth the same, so that units of one block go together.
        whole = self.project(worth[:, self.blocks] * self.params, sparsity)
        turns = torch.arange(count) % 2 == 0
        return torch.where(turns[:, None], whole, single)

    def neighbours(self, x: Tensor) -> Tensor:
        """Swap two units or two whole blocks, trade a unit for several smaller ones beside it, ``p x moves x d``.

        Rows that have fewer moves than others repeat themselves.
        """
        return moves_of(x, *self.flips(x))

    def flips(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same moves; see :class:`~unicuco_plugin.spaces.space.Flips`."""
        return self._moves(x)

    @cached_property
    def _moves(self) -> SublayerMoves:
        return SublayerMoves(self.unit_params, tuple(self.blocks.tolist()), self.needed)

    @cached_property
    def blocks(self) -> Tensor:
        """The block of each unit, ``d`` whole numbers from 0."""
        return torch.tensor(number_blocks(self.units))
