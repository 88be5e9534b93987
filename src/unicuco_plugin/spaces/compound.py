r"""The space of bits and blocks: units are stored by schemes, as in ``precision``, and whole blocks may be gone.

Notation as in ``precision``; a unit that is gone has 0 bits and a share of 1, with all others of its block.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from unicuco_plugin.errors import StrategyError, quoted
from unicuco_plugin.schemes import DENSE_BITS, REMOVED
from unicuco_plugin.spaces.coupled import CoupledPricing
from unicuco_plugin.spaces.exchanges import Exchanges
from unicuco_plugin.spaces.leaving import Leaving
from unicuco_plugin.spaces.precision import PrecisionSpace
from unicuco_plugin.spaces.units import name_block

__all__ = ["CompoundSpace"]

# Of random strategies, how many mean bits the units that stay have at the most: so many times those of all, or so many.
_WIDER, _WIDE = 1.5, 4.0
# What a block's own score adds to its mean share, so that random blocks go.
_NOISE = 0.05


@dataclass(frozen=True)
class CompoundSpace(PrecisionSpace):
    """Strategies over what a server packs, where the units of a block may be gone together.

    Attributes:
        unit_names, unit_params: As in ``precision``.
        choices: How each may be stored, from most bits to least; for units of blocks that may leave ``REMOVED`` is the
            last. Blocks are told by the units' names.
        needed: Groups of units, of which one each has to stay; of all where all may leave.

    Raises:
        StrategyError: As ``precision``; or if some units of a block may be gone and others not, or none may.
    """

    name: str = "compound"
    grid: ClassVar[tuple[float, ...]] = (*PrecisionSpace.grid, 2.25, 2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25)
    floor: ClassVar[str] = "the narrowest schemes of the blocks that have to stay"

    def __post_init__(self) -> None:
        super().__post_init__()
        ends = [{self.choices[unit][-1][0] == REMOVED for unit in units} for units in self._blocks.values()]
        if max(map(len, ends)) > 1 or {True} not in ends:
            raise StrategyError(
                f"choices must end with {quoted(REMOVED)} for the units of one block or more, and for all of its units"
            )

    @cached_property
    def _blocks(self) -> dict[str, tuple[int, ...]]:
        """Block → numbers of its units."""
        found: dict[str, tuple[int, ...]] = {}
        for place, unit in enumerate(self.unit_names):
            found[name_block(unit)] = (*found.get(name_block(unit), ()), place)
        return found

    @property
    def _leaves(self) -> dict[str, tuple[int, ...]]:
        """Those of blocks that may leave."""
        return {block: units for block, units in self._blocks.items() if self.choices[units[0]][-1][0] == REMOVED}

    @cached_property
    def _leaving(self) -> Leaving:
        groups = tuple(self._leaves.values())
        inside = {unit: place for place, units in enumerate(groups) for unit in units}
        # A group of which a member never leaves is safe.
        needed = [tuple(sorted({inside[u] for u in group})) for group in self.needed if set(group) <= inside.keys()]
        if not needed and len(inside) == len(self.unit_names):
            needed = [tuple(range(len(groups)))]
        rows = zip(self._steps.unit_params, self._steps.ladders, strict=True)
        saved = [round(bits * row[-2 if unit in inside else -1]) for unit, (bits, row) in enumerate(rows)]
        return Leaving(groups, tuple(needed), self._steps.unit_params, tuple(saved))

    @cached_property
    def stored(self) -> PrecisionSpace:
        """The same units where none is gone."""
        rows = [tuple(choice for choice in row if choice[0] != REMOVED) for row in self.choices]
        return PrecisionSpace(self.unit_names, self.unit_params, tuple(rows))

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the ``b`` blocks that may leave."""
        return tuple(self._leaves)

    def gone(self, x: Tensor, which: Tensor) -> Tensor:
        """One strategy, ``d``, where blocks are gone as ``n x b`` bools say, ``n x d``."""
        return torch.where(self._leaving.units(which), 1.0, x)

    def may_be_gone(self, which: Tensor) -> Tensor:
        """Whether what generation needs stays without blocks, ``n x b`` to ``n`` bools."""
        return self._leaving.allowed(which)

    def in_turn(self, x: Tensor, order: Tensor, counts: Sequence[int]) -> Tensor:
        """One strategy, ``d``, without so many blocks, in the order of their numbers, ``b``: ``n x d``."""
        which = order.argsort() < torch.tensor(counts)[:, None]
        return self.gone(x, which[self._leaving.allowed(which)])

    def with_blocks(self, costs: Tensor, leaves: Tensor) -> Tensor:
        """What choices of single units cost, ``d x l``, with what it costs that each block is gone, ``b``.

        Every unit of a block has its part of that, by its weights.
        """
        full = costs.clone()
        for group, cost in zip(self._leaving.groups, leaves.tolist(), strict=True):
            units = list(group)
            full[units, self._steps.most[units].long()] = cost * self.params[units] / self.params[units].sum()
        return full

    @cached_property
    def _pricing(self) -> CoupledPricing:
        return CoupledPricing(self._steps, self._leaving, tuple(self.kinds))

    @cached_property
    def most(self) -> float:
        """The largest share that can go: all blocks but those that are needed, these at their fewest bits."""
        return self._leaving.most / sum(self._steps.unit_params)

    def spend(self, s: Tensor, sparsity: float | Tensor) -> Tensor:
        """Schemes, and blocks that are gone, near any shares ``p x d`` that meet a budget, to the bit.

        Blocks of the largest shares leave, as many as save what others cannot in their narrowest schemes.
        """
        share = self._leaving.share(s)
        return self._filled(s, share, self._leaving.asked(s, share), sparsity)

    def _filled(self, s: Tensor, worth: Tensor, count: Tensor, sparsity: float | Tensor) -> Tensor:
        """Strategies near shares ``p x d``, where about as many of the worthiest blocks are gone as ``count`` says."""
        bits = self._whole_bits(sparsity).expand(len(s))
        return self._steps.shares(self._pricing.near(s, self._leaving.clamped(worth, count, bits), bits))

    def rounded(self, x: Tensor) -> Tensor:
        """The nearest strategies of whole steps, ``p x d``."""
        share = self._leaving.share(x)
        gone = self._leaving.worthiest(share, self._leaving.asked(x, share))
        return torch.where(self._leaving.units(gone), 1.0, self.stored.rounded(x))

    def parse(self, key: str) -> Tensor:
        """The inverse of ``key``, ``d``.

        Raises:
            ValueError, RuntimeError: As in ``precision``; or if a part of a block is gone, or all that are needed.
        """
        x = super().parse(key)
        gone = self._leaving.gone(x[None])
        if not torch.equal(self._leaving.units(gone)[0], x >= 1.0) or not bool(self._leaving.allowed(gone)):
            raise ValueError("key must leave out whole blocks, and not all of those that are needed")
        return x

    def random(self, count: int, sparsity: float, generator: Generator) -> Tensor:
        """Normal scores of each unit, each kind and each block at one budget, ``count x d``.

        Blocks go until the others have between the mean bits of all and half as many more, or four.
        """
        s = self.stored.random(count, min(sparsity, self.stored.most), generator)
        worth = self._leaving.share(s)
        worth = worth + _NOISE * torch.randn(worth.shape, generator=generator, dtype=torch.float64)
        own = DENSE_BITS * (1.0 - sparsity)
        wide = max(_WIDER * own, _WIDE)
        bits = own + (wide - own) * torch.rand(count, generator=generator, dtype=torch.float64)
        return self._filled(s, worth, ((1.0 - own / bits) * worth.shape[1]).round().long(), sparsity)

    def neighbours(self, x: Tensor) -> Tensor:
        """Exchanges of steps between units that stay, and one block gone or back; ``p x moves x d``, filled up."""
        found = []
        for row, bits in zip(x, self._whole_bits(self.sparsity(x)), strict=True):
            k, [gone] = self._steps.count(row), self._leaving.gone(row[None])
            staying = self._pricing.staying(gone)
            names = tuple(self.units[place] for place in staying.units.tolist())
            inner = Exchanges(staying.pricing.steps, names).of(k[staying.units], bits.item() - staying.gone)
            exchanged = k.repeat(len(inner), 1)
            exchanged[:, staying.units] = inner
            flipped = gone ^ torch.eye(len(gone), dtype=torch.bool)
            flipped = flipped[self._leaving.meets(flipped, bits)]
            s = self.stored._steps.shares(self._pricing.back(k)).expand(len(flipped), -1)
            found.append(
                self._steps.shares(torch.cat([exchanged, self._pricing.near(s, flipped, bits.expand(len(s)))]))
            )
        longest = max(map(len, found))
        full = [torch.cat([rows, own.expand(longest - len(rows), -1)]) for rows, own in zip(found, x, strict=True)]
        return torch.stack(full)

    def to_units(self, x: Tensor) -> dict[str, Any]:
        """Name the blocks that are gone, share 1, and the schemes of units that are stored in fewer bits."""
        named = {unit: scheme for unit, scheme in super().to_units(x).items() if scheme != REMOVED}
        [gone] = self._leaving.gone(x[None]).tolist()
        return {**{block: 1.0 for block, away in zip(self._leaves, gone, strict=True) if away}, **named}

    def from_units(self, units: Mapping[str, Any]) -> Tensor:
        """The inverse of ``to_units``.

        Raises:
            StrategyError: As in ``precision``; or if a block may not leave, or leaves in part.
        """
        leave = self._leaves
        gone = {unit: share for unit, share in units.items() if not isinstance(share, str)}
        for block, share in gone.items():
            if block not in leave or share != 1.0:
                raise StrategyError(f"units[{quoted(block)}] must be a block that may leave, with share 1, got {share}")
        away = {self.units[place]: REMOVED for block in gone for place in leave[block]}
        twice = next((unit for unit in away if unit in units), None)
        if twice is not None:
            raise StrategyError(f"units[{quoted(twice)}] must have no scheme where its block is gone")
        if REMOVED in units.values():
            raise StrategyError(f"units must name blocks that are gone, not units with {quoted(REMOVED)}")
        return super().from_units({**{unit: own for unit, own in units.items() if unit not in gone}, **away})
