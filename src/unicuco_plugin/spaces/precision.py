r"""The space of bits: every unit is stored by one of the schemes that it is offered, or left in 16 bits.

====== ===== =====================================================================
symbol shape meaning
====== ===== =====================================================================
b      p x d mean bits of a unit's weight, scales counted
x      p x d shares of 16 bits that go, ``x = 1 - b / 16``
k      p x d places on the units' ladders, from most bits to least
n      d     weights of each unit
====== ===== =====================================================================
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from unicuco_plugin.errors import RequestError, StrategyError, quoted, round_up
from unicuco_plugin.schemes import DENSE, DENSE_BITS, Choice
from unicuco_plugin.spaces.coupled import CoupledPricing
from unicuco_plugin.spaces.exchanges import Exchanges
from unicuco_plugin.spaces.offers import shared
from unicuco_plugin.spaces.pricing import REACH, Pricing, led_on
from unicuco_plugin.spaces.sparsity import SparsitySpace
from unicuco_plugin.spaces.stepped import SteppedUnits
from unicuco_plugin.spaces.steps import Steps
from unicuco_plugin.spaces.units import name_kind
from unicuco_plugin.spaces.weighted import WeightedUnits

__all__ = ["PrecisionSpace"]

# Mean bits worth one strategy each: a quarter apart where people ship models, coarser where less is at stake.
_GRID = (14.0, 12.0, 10.0, 9.0, 8.0, 7.0, 6.5, 6.0, 5.5, 5.0, 4.75, 4.5, 4.25, 4.0, 3.75, 3.5, 3.25, 3.0, 2.75, 2.5)
# Half the distance of two of them, as a share of the bits that are left.
_NEAR = 0.035
# To what share the smooth budget is met, before it is rounded to schemes, which do not see more.
_EXACT = 1e-7
_LOST = 1e-3  # bits that float64 may lose of a budget; whole bits are what differs
# Scores must be finite where all bits stay.
_EDGE = 1e-3
# Of random scores, one unit's own and those that all units of a kind share: at four bits, one bit is a score of 0.35.
_OWN, _SHARED = 0.35, 0.25


@dataclass(frozen=True)
class PrecisionSpace(SteppedUnits, WeightedUnits):
    """Strategies over what a server packs into one linear: ``x_i`` is the share of 16 bits that unit ``i`` saves.

    Attributes:
        unit_names: Names of the ``d`` units, in the order of the model.
        unit_params: Weights of each.
        choices: How each may be stored, from most bits to least.

    Raises:
        StrategyError: If a unit has fewer than two choices, or they are not in order.
    """

    unit_names: tuple[str, ...]
    unit_params: tuple[int, ...]
    choices: tuple[tuple[Choice, ...], ...]
    bounds: tuple[tuple[float, float], ...] = ()
    name: str = "precision"
    smooth: bool = True
    stepped: bool = True
    physical: bool = True
    needed: tuple[tuple[int, ...], ...] = ()
    grid: ClassVar[tuple[float, ...]] = _GRID
    floor: ClassVar[str] = "the narrowest scheme of every unit"

    def __post_init__(self) -> None:
        if len(self.choices) != len(self.unit_names):
            raise StrategyError(f"choices must be given for {len(self.unit_names)} units, got {len(self.choices)}")
        for unit, row in zip(self.unit_names, self.choices, strict=True):
            if len(row) < 2 or any(wide[1] <= narrow[1] for wide, narrow in pairwise(row)):
                shown = [name for name, *_ in row]
                raise StrategyError(
                    f"choices[{quoted(unit)}] must be two or more ways to store it, from most bits to least, got "
                    f"{quoted(shown)}"
                )

    @cached_property
    def _steps(self) -> Steps:
        ladders = tuple(tuple(1.0 - bits / DENSE_BITS for _, bits, _ in row) for row in self.choices)
        sizes = tuple(DENSE_BITS * n for n in self.unit_params)
        each = [n * (high - low) for n, row in zip(sizes, ladders, strict=True) for low, high in pairwise(row) if n]
        return Steps(sizes, ladders, min(each))

    @cached_property
    def _smooth(self) -> SparsitySpace:
        """The same units before shares are rounded to schemes."""
        ends = tuple((row[0], row[-1]) for row in self._steps.ladders)
        return SparsitySpace(self.unit_names, self.unit_params, ends, exact=_EXACT)

    @property
    def finest(self) -> float:
        """The smallest step, as a share of all bits."""
        return self._steps.fine / sum(self._steps.unit_params)

    @property
    def longest(self) -> int:
        """The most steps that any unit has."""
        return int(self._steps.most.max())

    @property
    def features(self) -> Tensor:
        """``d x e``: the share saved, and by how much every block and every kind of unit saves more than that."""
        return self._smooth.features

    @property
    def scales(self) -> tuple[int, ...]:
        """One for how much goes and one for where."""
        return self._smooth.scales

    @cached_property
    def most(self) -> float:
        """The largest share that can go: all units at their fewest bits."""
        return self._smooth.most

    @cached_property
    def budgets(self) -> tuple[float, ...]:
        """Quarters of a bit up to five, coarser steps beyond; every budget between them can be met too."""
        low, high = self._smooth.reach[0], self.most
        return tuple(share for share in (1.0 - bits / DENSE_BITS for bits in self.grid) if low < share < high)

    def reaching(self, sparsity: float) -> float:
        """The share itself, or the least there is: schemes bring it within one step.

        Raises:
            RequestError: If the narrowest schemes do not reach it.
        """
        low, high = self._smooth.reach[0], self.most
        if sparsity > high + 1e-12:
            raise RequestError(
                f"bits must be at least {round_up(DENSE_BITS * (1.0 - high))}, {self.floor}, scales counted; got "
                f"{DENSE_BITS * (1.0 - sparsity):.6g}"
            )
        return min(max(sparsity, low), high)

    def spend(self, s: Tensor, sparsity: float | Tensor) -> Tensor:
        """Schemes near any shares ``p x d`` that meet a budget, to the bit."""
        return self._steps.shares(self._steps.spend(s, self._whole_bits(sparsity)))

    def _whole_bits(self, sparsity: float | Tensor) -> Tensor:
        return (torch.as_tensor(sparsity, dtype=torch.float64) * sum(self._steps.unit_params) - _LOST).ceil()

    def near(self, X: Tensor, sparsity: float) -> Tensor:
        """The strategies within half a step of ``budgets``."""
        return (self.sparsity(X) - sparsity).abs() <= _NEAR * (1.0 - sparsity)

    def scores(self, x: Tensor) -> Tensor:
        """Log odds of the shares."""
        return x.clamp(_EDGE, 1.0 - _EDGE).logit()

    def places(self, x: Tensor) -> Tensor:
        """Which of its choices each unit has, in ``choices``: ``... x d`` whole numbers."""
        return self._steps.count(x).long()

    def uniform(self) -> dict[str, Tensor]:
        """Every scheme that most units are offered → the strategy, ``d``, that gives it to all; see :func:`shared`."""
        rows = shared(self.choices).items()
        return {name: self.from_units(dict(zip(self.units, own, strict=True))) for name, own in rows}

    def first(self, count: int, generator: Generator, most: float = 1.0) -> Tensor:
        """One scheme for all units, equal scores at every budget, then random ones up to ``most``."""
        d = len(self.units)
        budgets = [budget for budget in self.budgets if budget <= most + 1e-9] or list(self.budgets[:1])
        rows = [row[None] for row in self.uniform().values()]
        rows += [self.project(torch.zeros(1, d, dtype=torch.float64), budget) for budget in budgets]
        while len(rows) < count:
            budget = budgets[int(torch.randint(len(budgets), (1,), generator=generator))]
            rows.append(self.random(1, budget, generator))
        return torch.cat(rows[:count])

    def random(self, count: int, sparsity: float, generator: Generator) -> Tensor:
        """Normal scores of each unit and of each kind of unit at one budget, ``count x d``."""
        z = _OWN * torch.randn(count, len(self.units), generator=generator, dtype=torch.float64)
        common = torch.randn(count, max(self.kinds) + 1, generator=generator, dtype=torch.float64)
        return self.project(z + _SHARED * common[:, self.kinds], sparsity)

    @cached_property
    def kinds(self) -> list[int]:
        """Of each unit the number of its kind, such as all ``down_proj``, from 0."""
        kinds = list(dict.fromkeys(map(name_kind, self.units)))
        return [kinds.index(name_kind(unit)) for unit in self.units]

    def neighbours(self, x: Tensor) -> Tensor:
        """One unit a step down and another a step up, ``p x moves x d``; see :class:`Exchanges`."""
        moves = Exchanges(self._steps, self.units)
        budgets = self._whole_bits(self.sparsity(x)).tolist()
        return torch.stack(
            [self._steps.shares(moves.of(self._steps.count(row), bits)) for row, bits in zip(x, budgets, strict=True)]
        )

    @cached_property
    def _pricing(self) -> Pricing | CoupledPricing:
        return Pricing(self._steps)

    def cheapest(self, costs: Tensor, budgets: Sequence[float]) -> Tensor:
        """The strategies of least cost, where the units' costs add up, ``t x d``.

        Args:
            costs: ``d x l``, of each unit's choices; infinite where it has fewer.
            budgets: ``t`` shares to save.
        """
        return self._steps.shares(self._pricing.cheapest(costs, self._bits(budgets)))

    @torch.no_grad()
    def spent(self, costs: Tensor, budgets: Sequence[float]) -> Tensor:
        """The same nearly, at once, also of ``t x d x l`` costs; each row is the same whatever is asked beside it."""
        return self._steps.shares(self._pricing.spent(costs, self._bits(budgets)))

    def _bits(self, budgets: Sequence[float]) -> Tensor:
        return self._whole_bits(torch.tensor([self.reaching(budget) for budget in budgets], dtype=torch.float64))

    @torch.no_grad()
    def costs_at(self, value: Callable[[Tensor], Tensor], x: Tensor, reach: int = REACH) -> Tensor:
        """What each other choice of one unit costs where all others stay; see :meth:`Pricing.costs_at`."""
        return self._pricing.costs_at(value, self._steps.count(x), reach)

    @torch.no_grad()
    def refined(self, value: Callable[[Tensor], Tensor], x: Tensor, budget: float) -> Tensor:
        """Where strategies at a budget lead, ``p x d``; see :func:`led_on`."""
        return self._steps.shares(led_on(self._pricing, value, self._steps.count(x), self._bits([budget])))

    def to_units(self, x: Tensor) -> dict[str, Any]:
        """Name the schemes of the units that are not left alone in one strategy, ``d``."""
        places = self._steps.count(x).long().tolist()
        chosen = {unit: row[k][0] for unit, row, k in zip(self.units, self.choices, places, strict=True)}
        return {unit: scheme for unit, scheme in chosen.items() if scheme != DENSE}

    def from_units(self, units: Mapping[str, Any]) -> Tensor:
        """The inverse of ``to_units``.

        Raises:
            StrategyError: If a unit is unknown, or is not offered its scheme, or being left alone.
        """
        unknown = next((name for name in units if name not in self.units), None)
        if unknown is not None:
            raise StrategyError(f"units must be what a server packs, such as {self.units[0]}, got {quoted(unknown)}")
        k = []
        for unit, row in zip(self.units, self.choices, strict=True):
            names, wanted = [name for name, *_ in row], units.get(unit, DENSE)
            if wanted not in names:
                raise StrategyError(f"units[{quoted(unit)}] must be one of {', '.join(names)}, got {quoted(wanted)}")
            k.append(float(names.index(wanted)))
        return self._steps.shares(torch.tensor(k, dtype=torch.float64))
