"""The space of whole decoder blocks: each one stays or goes.

Where all blocks have one size a budget is a number of blocks (:class:`DepthSpace`), else it is in parameters
(:class:`UnevenBlocks`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Generator, Tensor

from unicuco_plugin.errors import RequestError, round_down
from unicuco_plugin.spaces.removal import WholeSets, moves_of, row_of, stays
from unicuco_plugin.spaces.whole import WholeUnits

__all__ = ["DepthSpace", "UnevenBlocks", "make_depth"]

# Shares are sums of floats: a budget that is a block boundary must not cost one block more.
_SLACK = 1e-9


@dataclass(frozen=True)
class DepthSpace(WholeSets):
    """Sets of whole blocks, by their number; at least one block always stays.

    Swaps keep the number of blocks, which is the budget where blocks have one size.
    Where they have not, :meth:`project` is what a ranking of blocks makes of a budget: peers follow it so.
    """

    name: str = "depth"
    what: str = "block"
    physical: bool = True
    mixes_budgets: ClassVar[bool] = True

    @cached_property
    def budgets(self) -> tuple[float, ...]:
        """The largest share that 1, 2, … d - 1 blocks can reach: k / d where blocks have one size."""
        largest = self.params.sort(descending=True).values.cumsum(0) / self.params.sum()
        return tuple(largest[:-1].tolist())

    @property
    def most(self) -> float:
        """The share of all blocks but the smallest."""
        return self.budgets[-1]

    def reaching(self, sparsity: float) -> float:
        """The next budget: the fewest blocks that reach the share.

        Raises:
            RequestError: If it takes all blocks.
        """
        found = [budget for budget in self.budgets if budget >= sparsity - _SLACK]
        if not found:
            raise RequestError(
                f"sparsity must be at most {round_down(self.budgets[-1])} for this profile ({len(self.budgets)} of "
                f"{len(self.units)} units), got {sparsity}"
            )
        return found[0]

    def relax(self, logits: Tensor) -> Tensor:
        """Remove the blocks with the highest scores, as many as the sigmoids sum to; straight-through gradient.

        Forward the result is binary, the only kind of point that the surrogate has seen; backward it is the sigmoid.

        Args:
            logits: ``p x d``.

        Source:
            Straight-through estimator, Bengio et al. 2013; compared with the plain sigmoid in
            ``benchmarks/relaxation.py``.
        """
        soft = logits.sigmoid()
        count = soft.detach().sum(-1).round().clamp(1, soft.shape[-1] - 1)
        ranks = logits.detach().argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        hard = (ranks < count[:, None]).to(soft)
        return hard + soft - soft.detach()

    def project(self, scores: Tensor, sparsity: float) -> Tensor:
        """Remove blocks in order of falling score, the fewest that reach the share.

        Of each group that is needed the last in order stays that the share can do without.

        Args:
            scores: ``p x d``.
            sparsity: Share of block parameters to remove, at least; in (0, 1).

        Raises:
            RequestError: If it takes all blocks, or all of a group.
        """
        share = self.params / self.params.sum()
        groups = [torch.tensor(group) for group in self.needed or (range(len(self.units)),)]
        lightest = [share[group].min().item() for group in groups]
        if 1.0 - sum(lightest) < sparsity - _SLACK:
            raise RequestError(
                f"sparsity must be at most {round_down(1.0 - sum(lightest))} for depth: "
                f"{stays([group.tolist() for group in groups], 'block', needed=bool(self.needed))}, got {sparsity:.6g}"
            )
        order = scores.argsort(dim=-1, descending=True, stable=True)
        rank, free = order.argsort(-1), torch.full((len(scores),), 1.0 - sum(lightest) - sparsity + _SLACK)
        may = torch.ones(scores.shape, dtype=torch.bool)
        for group, least in zip(groups, lightest, strict=True):
            # What the others of the group weigh more than its lightest must not exceed what is to spare.
            able = share[group] - least <= free[:, None]
            kept = group[rank[:, group].masked_fill(~able, -1).argmax(-1)]
            may.scatter_(-1, kept[:, None], value=False)
            free = free - (share[kept] - least)
        able = may.gather(-1, order)
        reached = (share[order] * able).cumsum(-1)
        before = torch.cat([torch.zeros_like(reached[:, :1]), reached[:, :-1]], -1)
        taken = able & (before < sparsity - _SLACK)
        return torch.zeros(scores.shape, dtype=torch.float64).scatter(-1, order, taken.double())

    def near(self, X: Tensor, sparsity: float) -> Tensor:
        """The strategies that are at the budget already; half a block cannot go."""
        return (self.sparsity(X) - sparsity).abs() < _SLACK

    def scores(self, x: Tensor) -> Tensor:
        """The strategies themselves: removed blocks score 1, kept ones 0."""
        return x

    def first(self, count: int, generator: Generator, most: float = 1.0) -> Tensor:
        """Every single block, then random sets, ``count x d`` or fewer.

        Four in five have any size up to ``most`` of the parameters, the fifth any size there is: what lies beyond must
        be known to be bad, not known well.
        """
        d = len(self.units)
        rows = list(torch.eye(d, dtype=torch.float64)[:count])
        seen = {self.key(row) for row in rows}
        largest = max(2, sum(budget <= most + _SLACK for budget in self.budgets))
        for turn in range(20 * count):
            if len(rows) >= count:
                break
            limit = d - 1 if turn % 5 == 0 else largest
            size = int(torch.randint(2, limit + 1, (1,), generator=generator)) if d > 2 else 1
            row = row_of(d, torch.randperm(d, generator=generator)[:size].tolist())
            if self.key(row) not in seen:
                seen.add(self.key(row))
                rows.append(row)
        return torch.stack(rows)

    def random(self, count: int, sparsity: float, generator: Generator) -> Tensor:
        """Uniformly random sets at one budget, ``count x d``; repeats are possible."""
        return self.project(torch.rand(count, len(self.units), generator=generator, dtype=torch.float64), sparsity)

    def neighbours(self, x: Tensor) -> Tensor:
        """Swap one removed block with one kept, in every way, ``p x d`` to ``p x moves x d``.

        Rows that have fewer moves than others repeat themselves.
        """
        return moves_of(x, *self.flips(x))

    def flips(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same moves; see :class:`~unicuco_plugin.spaces.space.Flips`."""
        found = ((x == 1)[:, :, None] & (x == 0)[:, None]).nonzero()
        return found[:, 0], found[:, 1:]


@dataclass(frozen=True)
class UnevenBlocks(WholeUnits):
    """Strategies over blocks that differ in size, or of which generation needs some; see :class:`WholeUnits`."""

    name: str = "depth"
    what: str = "block"
    physical: bool = True


def make_depth(
    names: tuple[str, ...], params: tuple[int, ...], needed: tuple[tuple[int, ...], ...] = ()
) -> DepthSpace | UnevenBlocks:
    """The space ``depth`` of a model's blocks: by their number where all have one size and any may be the last."""
    if len(set(params)) == 1 and not needed:
        return DepthSpace(names, params)
    return UnevenBlocks(names, params, needed)
