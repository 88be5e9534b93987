"""Moves from one set of sub-layers to others with as many parameters."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from unicuco_plugin.spaces.subsets import units_by_size

__all__ = ["SublayerMoves"]

# Units of the smaller size that a move may trade for one of the larger: an MLP of SmolLM2 weighs three
# attentions, and each further one would multiply the moves.
_TRADED = 4


@dataclass(frozen=True)
class SublayerMoves:
    """Swaps of two units or two whole blocks, and trades of one unit for smaller ones.

    A move never takes the last unit of a group that is needed.

    Attributes:
        sizes: Parameters of each of ``d`` units.
        blocks: The block of each, whole numbers from 0.
        needed: Groups of indices of units; of each at least one stays.
    """

    sizes: tuple[int, ...]
    blocks: tuple[int, ...]
    needed: tuple[tuple[int, ...], ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """All moves of each row, ``p x d`` to ``p x moves x d``.

        Rows that have fewer moves than others repeat themselves.
        """
        found = [self._swapped(x), *self._blocks_swapped(x), *self._traded(x)]
        row, moved = (torch.cat(parts) for parts in zip(*found, strict=True))
        for group in self.needed:
            allowed = (moved[:, list(group)] == 0).any(-1)
            row, moved = row[allowed], moved[allowed]
        order = row.argsort(stable=True)
        row, count = row[order], row.bincount(minlength=len(x))
        place = torch.arange(len(row)) - (count.cumsum(0) - count)[row]
        moves = x[:, None].repeat(1, int(count.max()), 1)
        moves[row, place] = moved[order]
        return moves

    @cached_property
    def _members(self) -> dict[int, Tensor]:
        return units_by_size(self.sizes)

    @cached_property
    def _pairs(self) -> Tensor:
        """Ordered pairs of different units of one size, ``pairs x 2``."""
        pairs = torch.cat([torch.cartesian_prod(found, found).view(-1, 2) for found in self._members.values()])
        return pairs[pairs[:, 0] != pairs[:, 1]]

    @cached_property
    def _alike(self) -> list[Tensor]:
        """Of blocks with the same sizes of several units: their units, ``blocks x units`` by rising size."""
        units: dict[int, list[int]] = {}
        for index, block in sorted(enumerate(self.blocks), key=lambda pair: self.sizes[pair[0]]):
            units.setdefault(block, []).append(index)
        alike: dict[tuple[int, ...], list[list[int]]] = {}
        for members in units.values():
            alike.setdefault(tuple(self.sizes[index] for index in members), []).append(members)
        return [torch.tensor(members) for kind, members in alike.items() if len(kind) > 1 and len(members) > 1]

    def _swapped(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of rows, and what a swap of two units makes of each."""
        goes, comes = self._pairs.T
        row, pair = ((x[:, goes] == 0) & (x[:, comes] == 1)).nonzero().T
        return row, x[row].scatter(1, goes[pair, None], 1.0).scatter(1, comes[pair, None], 0.0)

    def _blocks_swapped(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """One block that is whole for one that went whole."""
        for members in self._alike:
            share = x[:, members].mean(-1)
            row, goes, comes = ((share == 0)[:, :, None] & (share == 1)[:, None]).nonzero().T
            yield row, x[row].scatter(1, members[goes], 1.0).scatter(1, members[comes], 0.0)

    def _traded(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """One larger unit for as many smaller ones as weigh the same, the nearest in the model, either way."""
        for small, large in itertools.combinations(self._members, 2):
            times, rest = divmod(large, small)
            if rest or times > _TRADED:
                continue
            little, big = self._members[small], self._members[large]
            free = x[:, None, little] != x[:, big, None]
            distance = (little[None] - big[:, None]).abs().double().masked_fill(~free, torch.inf)
            nearest = little[distance.argsort(dim=-1, stable=True)[..., :times]]
            row, unit = (free.sum(-1) >= times).nonzero().T
            there = x[row, big[unit]][:, None]
            changed = x[row].scatter(1, nearest[row, unit], there.expand(-1, times))
            yield row, changed.scatter(1, big[unit, None], 1.0 - there)
