"""Moves from one set of sub-layers to others with as many parameters."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

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

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All moves of ``p x d`` strategies, as flips (see ``removal``)."""
        found = [self._swapped(x), *self._blocks_swapped(x), *self._traded(x)]
        most = max(units.shape[1] for _, units in found)
        none = x.shape[1]
        row = torch.cat([row for row, _ in found])
        units = torch.cat([pad(units, (0, most - units.shape[1]), value=none) for _, units in found])
        comes = torch.cat([x, x.new_zeros(len(x), 1)], 1)[row[:, None], units] == 1
        for group in self.needed:
            inside = torch.zeros(none + 1, dtype=torch.int64)
            inside[list(group)] = 1
            left = (x[:, list(group)] == 0).sum(-1)[row] + (inside[units] * torch.where(comes, 1, -1)).sum(-1)
            row, units, comes = row[left > 0], units[left > 0], comes[left > 0]
        return row, units

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
        """Two units of one size, of which one went."""
        goes, comes = self._pairs.T
        row, pair = ((x[:, goes] == 0) & (x[:, comes] == 1)).nonzero().T
        return row, self._pairs[pair]

    def _blocks_swapped(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """One block that is whole for one that went whole."""
        for members in self._alike:
            share = x[:, members].mean(-1)
            row, goes, comes = ((share == 0)[:, :, None] & (share == 1)[:, None]).nonzero().T
            yield row, torch.cat([members[goes], members[comes]], 1)

    def _traded(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """One larger unit for as many smaller ones as weigh the same, the nearest in the model, either way."""
        for small, large in itertools.combinations(self._members, 2):
            times, rest = divmod(large, small)
            if rest or times > _TRADED:
                continue
            little, big = self._members[small], self._members[large]
            free = x[:, None, little] != x[:, big, None]
            # The earlier of two that are as near.
            rank = (x.shape[1] * (little - big[:, None]).abs() + little).double().masked_fill(~free, torch.inf)
            nearest = little[rank.topk(min(times, len(little)), largest=False).indices]
            row, unit = (free.sum(-1) >= times).nonzero().T
            yield row, torch.cat([big[unit, None], nearest[row, unit]], 1)
