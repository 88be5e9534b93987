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

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from unicuco_plugin.errors import RequestError, StrategyError, quoted, round_up
from unicuco_plugin.schemes import DENSE, DENSE_BITS, Choice, parse_scheme
from unicuco_plugin.spaces.knapsack import cheapest
from unicuco_plugin.spaces.sparsity import SparsitySpace
from unicuco_plugin.spaces.stepped import SteppedUnits
from unicuco_plugin.spaces.steps import Steps
from unicuco_plugin.spaces.units import name_block, name_kind
from unicuco_plugin.spaces.weighted import WeightedUnits

__all__ = ["PrecisionSpace"]

# Mean bits worth one strategy each: a quarter apart where people ship models, coarser where less is at stake.
_GRID = (14.0, 12.0, 10.0, 9.0, 8.0, 7.0, 6.5, 6.0, 5.5, 5.0, 4.75, 4.5, 4.25, 4.0, 3.75, 3.5, 3.25, 3.0, 2.75, 2.5)
# Half the distance of two of them, as a share of the bits that are left.
_NEAR = 0.035
# To what share the smooth budget is met, before it is rounded to schemes, which do not see more.
_EXACT = 1e-7
# Bits that float64 may lose of a budget; whole bits are what differs.
_LOST = 1e-3
# Scores must be finite where all bits stay.
_EDGE = 1e-3
# Of random scores, one unit's own and those that all units of a kind share: at four bits, one bit is a score of 0.35.
_OWN, _SHARED = 0.35, 0.25
# Partners of an exchange: so many places further among the units of its kind. A choice that spans the depth; not tuned.
_PLACES = (1, 3, 9)
# A preference among partners, in steps: far below one, far above what float64 loses.
_HINT = 1e-3
# Refining: of so many starts the best, so often, each unit by so many steps at a time. Costs of single units are looked
# up at where one stands and add up only nearby; a third round changes little.
_STARTS, _ROUNDS, _REACH = 6, 3, 2
# The logarithm of the price of a bit, nats per token: where it is sought, and how often that is halved, to 1e-5. The
# largest models have some 1e13 bits.
_CHEAPEST, _DEAREST, _PRICES = -45.0, 5.0, 22


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
        finest = min(
            n * (high - low) for n, row in zip(sizes, ladders, strict=True) for low, high in pairwise(row) if n
        )
        return Steps(sizes, ladders, finest)

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
        low, high = self._smooth.reach
        shares = (1.0 - bits / DENSE_BITS for bits in _GRID)
        return tuple(share for share in shares if low < share < high)

    def reaching(self, sparsity: float) -> float:
        """The share itself, or the least there is: schemes bring it within one step.

        Raises:
            RequestError: If the narrowest schemes do not reach it.
        """
        low, high = self._smooth.reach
        if sparsity > high + 1e-12:
            raise RequestError(
                f"bits must be at least {round_up(DENSE_BITS * (1.0 - high))} for this profile, the narrowest scheme "
                f"of every unit, scales counted; got {DENSE_BITS * (1.0 - sparsity):.6g}"
            )
        return min(max(sparsity, low), high)

    def spend(self, s: Tensor, sparsity: float) -> Tensor:
        """Schemes near any shares ``p x d`` that meet a budget, to the bit."""
        return self._steps.shares(self._steps.spend(s, self._whole_bits(sparsity)))

    def _whole_bits(self, sparsity: float) -> float:
        return float(math.ceil(sparsity * sum(self._steps.unit_params) - _LOST))

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
        """Every scheme that all units are offered → the strategy, ``d``, that gives it to all of them.

        Where groups differ from unit to unit, because inputs do, a scheme is told by its bits: ``W4A16``.
        """
        found: dict[str, Tensor] = {}
        each = [{name: _without_group(name) for name, *_ in row if name != DENSE} for row in self.choices]
        for name, label in each[0].items():
            if all(name in names for names in each):
                found[name] = self.from_units(dict.fromkeys(self.units, name))
            elif all(list(names.values()).count(label) == 1 for names in each):
                own = [next(own for own, of in names.items() if of == label) for names in each]
                found[label] = self.from_units(dict(zip(self.units, own, strict=True)))
        return found

    def cheapest(self, costs: Tensor, budgets: Sequence[float]) -> Tensor:
        """The strategies of least cost, where the units' costs add up, ``t x d``.

        Args:
            costs: ``d x l``, of each unit's choices; infinite where it has fewer.
            budgets: ``t`` shares to save.
        """
        saved = torch.zeros_like(costs, dtype=torch.int64)
        for own, n, row in zip(saved, self.unit_params, self.choices, strict=True):
            own[: len(row)] = torch.tensor([round(n * (DENSE_BITS - bits)) for _, bits, _ in row])
        wanted = [int(self._whole_bits(self.reaching(budget))) for budget in budgets]
        places = cheapest(costs, saved, wanted).double()
        # Where savings were counted coarsely a step is missing, or too much.
        settled = [self._steps.settle(k[None], k[None], k[None], bits) for k, bits in zip(places, wanted, strict=True)]
        return self._steps.shares(torch.cat(settled)) if settled else costs.new_empty(0, len(self.units))

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
        kinds = len(set(self.kinds))
        z += _SHARED * torch.randn(count, kinds, generator=generator, dtype=torch.float64)[:, self.kinds]
        return self.project(z, sparsity)

    @cached_property
    def kinds(self) -> list[int]:
        """Of each unit the number of its kind, such as all ``down_proj``, from 0."""
        kinds = list(dict.fromkeys(map(name_kind, self.units)))
        return [kinds.index(name_kind(unit)) for unit in self.units]

    @cached_property
    def _pairs(self) -> tuple[Tensor, Tensor]:
        """Who gives a step and who takes one: units of one kind some places apart, and all units of one block."""
        blocks = list(map(name_block, self.units))
        pairs: dict[tuple[int, int], None] = {}
        for kind in sorted(set(self.kinds)):
            members = [index for index, own in enumerate(self.kinds) if own == kind]
            for place, one in enumerate(members):
                for far in _PLACES:
                    other = members[(place + far) % len(members)]
                    pairs |= dict.fromkeys(((one, other), (other, one)))
        for one, block in enumerate(blocks):
            pairs |= dict.fromkeys((one, other) for other, own in enumerate(blocks) if own == block)
        gives, takes = (
            zip(*(pair for pair in pairs if pair[0] != pair[1]), strict=True) if len(blocks) > 1 else ((), ())
        )
        return torch.tensor(gives, dtype=torch.long), torch.tensor(takes, dtype=torch.long)

    def neighbours(self, x: Tensor) -> Tensor:
        """One unit a step down and another a step up, ``p x moves x d``; the units beside them make up a difference.

        An exchange that is not possible leaves the strategy as it is.
        """
        gives, takes = self._pairs
        d, rows = len(self.units), torch.arange(len(gives))
        place = torch.arange(d)
        # Nearer units first, to give more where that is not enough, to take what is left where it is too much.
        hint = _HINT * (1.0 / (1.0 + (place - gives[:, None]).abs()) - 1.0 / (1.0 + (place - takes[:, None]).abs()))
        moves = []
        for row in x:
            k = self._steps.count(row)
            changed = k.repeat(len(gives), 1)
            changed[rows, gives] += 1.0
            changed[rows, takes] -= 1.0
            possible = (k[gives] < self._steps.most[gives]) & (k[takes] > 0)
            changed = torch.where(possible[:, None], changed, k)
            target = self._whole_bits(self.sparsity(row[None]).item())
            found = self._steps.settle(changed, changed + hint, changed + hint, target)
            moves.append(self._steps.shares(torch.where(possible[:, None], found, k)))
        return torch.stack(moves)

    @torch.no_grad()
    def refined(self, value: Callable[[Tensor], Tensor], x: Tensor, budget: float) -> Tensor:
        """Where strategies at a budget lead, ``p x d``: the least sum of what each unit's own changes cost there.

        The best few of them; the others stay.

        Args:
            value: ``q x d`` strategies to ``q`` logarithms of nats per token.
            x: ``p x d`` strategies at the budget.
            budget: Share of bits to save.
        """
        best, lowest = x.clone(), value(x)
        for row in lowest.argsort(stable=True)[:_STARTS].tolist():
            for _ in range(_ROUNDS):
                found = self.spent(self.costs_at(value, best[row]), [budget])
                [worth] = value(found)
                if worth >= lowest[row] - 1e-9:
                    break
                best[row], lowest[row] = found[0], worth
        return best

    @torch.no_grad()
    def costs_at(self, value: Callable[[Tensor], Tensor], x: Tensor, reach: int = _REACH) -> Tensor:
        """What each other choice of one unit costs where all others stay, nats per token, ``d x l``.

        Args:
            value: ``q x d`` strategies to ``q`` logarithms of nats per token.
            x: ``d``.
            reach: How many steps away; what is further, or not there, is infinite.
        """
        k = self._steps.count(x)
        longest = self.longest + 1
        places = torch.arange(longest, dtype=torch.float64).expand(len(k), -1)
        near = ((places - k[:, None]).abs() <= reach) & (places <= self._steps.most[:, None])
        unit, place = near.nonzero(as_tuple=True)
        changed = k.repeat(len(unit), 1)
        changed[torch.arange(len(unit)), unit] = place.double()
        costs = torch.full((len(k), longest), torch.inf, dtype=torch.float64)
        costs[unit, place] = value(self._steps.shares(changed)).exp() - value(x[None]).exp()
        return costs

    @torch.no_grad()
    def spent(self, costs: Tensor, budgets: Sequence[float]) -> Tensor:
        """Strategies of nearly the least sum of costs: units' choices at one price of a bit, then single steps.

        Args:
            costs: ``d x l``, as :meth:`costs_at` gives them.
            budgets: ``t`` shares of bits to save.

        Returns:
            ``t x d``; each row is the same whatever is asked beside it.
        """
        bits = torch.tensor([self._whole_bits(budget) for budget in budgets], dtype=torch.float64)
        chosen = self._priced(costs, bits)
        # Who makes up the difference: by what a unit's next step costs, or its last one spares, per bit.
        slope = costs.diff(dim=1) / self._saved.diff(dim=1).clamp_min(1e-300)
        steps = costs.shape[1] - 1
        up = slope.nan_to_num(torch.inf, torch.inf, torch.inf).gather(1, chosen.clamp_max(steps - 1).T).T
        down = slope.nan_to_num(0.0, 0.0, 0.0).gather(1, (chosen - 1).clamp_min(0).T).T
        k, d = chosen.double(), len(costs)
        rise, fall = (k - _HINT * price.argsort(1).argsort(1) / d for price in (up, down))
        return self._steps.shares(self._steps.settle(k, rise, fall, bits))

    @cached_property
    def _saved(self) -> Tensor:
        """Bits that each choice saves, ``d x l``; rows filled up."""
        longest = self.longest + 1
        places = torch.arange(longest, dtype=torch.float64)[:, None].expand(-1, len(self.units))
        shares = self._steps.shares(torch.minimum(places, self._steps.most))
        return (shares * self.params).T.contiguous() * DENSE_BITS

    def _priced(self, costs: Tensor, bits: Tensor) -> Tensor:
        """Each unit's place of least cost at the lowest price of a bit at which enough are saved, ``t x d``."""
        low, high = torch.full_like(bits, _CHEAPEST), torch.full_like(bits, _DEAREST)
        for _ in range(_PRICES):
            middle = 0.5 * (low + high)
            choice = (costs - middle.exp()[:, None, None] * self._saved).argmin(-1)
            enough = self._saved.gather(1, choice.T).sum(0) >= bits - 0.5
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        return (costs - high.exp()[:, None, None] * self._saved).argmin(-1)

    def to_units(self, x: Tensor) -> dict[str, Any]:
        """Name the schemes of the units that are not left alone in one strategy, ``d``."""
        places = map(int, self._steps.count(x).tolist())
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


def _without_group(name: str) -> str:
    scheme = parse_scheme(name)
    whole = scheme.format != "pack-quantized"
    return name if whole else replace(scheme, group=parse_scheme("W4A16").group, chosen=False).name
