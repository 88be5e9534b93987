"""The space of sub-layers: the attention and the MLP of every block, each of which stays or goes.

====== ===== ====================================================================================
symbol shape meaning
====== ===== ====================================================================================
n      d     parameters of each unit, of few distinct sizes
N      c x k compositions: how many units of each of k sizes go
T      c     parameters that go with each composition
====== ===== ====================================================================================

Sums of a few sizes leave gaps, so a request comes down to the least ``T`` that reaches it: no set of sub-layers reaches
the share with fewer parameters.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from unicuco_plugin.errors import RequestError, StrategyError, round_down
from unicuco_plugin.spaces.removal import check_count, key_of, named_units, parse_key, row_of, units_of
from unicuco_plugin.spaces.sublayer_moves import SublayerMoves, units_by_size
from unicuco_plugin.spaces.units import number_blocks
from unicuco_plugin.spaces.weighted import WeightedUnits

__all__ = ["SublayerSpace"]

# Shares are quotients of whole numbers: half a parameter of the largest models is far more.
_SLACK = 1e-12
# Sizes beyond which compositions are too many to list; models have two, those that mix kinds of attention three.
_SIZES = 3
# Draws for each of the first strategies before a space is taken to have no more distinct ones.
_TRIES = 20


@dataclass(frozen=True)
class SublayerSpace(WeightedUnits):
    """Strategies over attentions and MLPs: ``x_i`` is 1 where unit ``i`` is removed, else 0; one unit always stays.

    Attributes:
        unit_names: Full module names of the ``d`` units, in the order of the model.
        unit_params: Parameters of each.

    Raises:
        StrategyError: If units have more than three sizes, or there are fewer than two or more than 640.
    """

    unit_names: tuple[str, ...]
    unit_params: tuple[int, ...]
    name: str = "sublayer"
    smooth: bool = False
    stepped: bool = False
    physical: bool = False
    scales: tuple[int, ...] = ()
    bounds: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        check_count(len(self.unit_names), "sub-layers")
        if len(self._sizes) > _SIZES:
            raise StrategyError(f"sub-layers must have at most {_SIZES} sizes, got {len(self._sizes)}")

    @cached_property
    def features(self) -> Tensor:
        """The identity: removing a sub-layer is one coordinate."""
        return torch.eye(len(self.units), dtype=torch.float64)

    @cached_property
    def _sizes(self) -> list[int]:
        return list(units_by_size(self.unit_params))

    @cached_property
    def _members(self) -> list[Tensor]:
        """Indices of the units of each size."""
        return list(units_by_size(self.unit_params).values())

    @cached_property
    def _compositions(self) -> dict[int, Tensor]:
        """Every ``T`` that can go, rising → its compositions ``c x k``."""
        found: dict[int, list[tuple[int, ...]]] = {}
        for counts in itertools.product(*(range(len(members) + 1) for members in self._members)):
            if 0 < sum(counts) < len(self.units):
                total = sum(count * size for count, size in zip(counts, self._sizes, strict=True))
                found.setdefault(total, []).append(counts)
        return {total: torch.tensor(found[total]) for total in sorted(found)}

    def _total(self, sparsity: float) -> int:
        """The fewest parameters that reach a share."""
        whole = sum(self.unit_params)
        found = next((total for total in self._compositions if total >= (sparsity - _SLACK) * whole), None)
        if found is None:
            most = round_down(max(self._compositions) / whole)
            raise RequestError(
                f"sparsity must be at most {most} for sublayer: one of {len(self.units)} sub-layers has to stay, got "
                f"{sparsity:.6g}"
            )
        return found

    def reaching(self, sparsity: float) -> float:
        """The share of the fewest parameters that reach it.

        Raises:
            RequestError: If it takes all sub-layers.
        """
        return self._total(sparsity) / sum(self.unit_params)

    @cached_property
    def budgets(self) -> tuple[float, ...]:
        """What ``1/d, 2/d …`` come down to, as far as there is such a set; every budget between them can be met too."""
        d = len(self.units)
        largest = max(self._compositions) / sum(self.unit_params)
        wanted = [step / d for step in range(1, d) if step / d <= largest + _SLACK]
        return tuple(sorted({self.reaching(share) for share in wanted}))

    def relax(self, logits: Tensor) -> Tensor:
        """Remove units in order of falling score, as many parameters as the sigmoids weigh; straight-through gradient.

        Source:
            As ``DepthSpace.relax``, which it equals where all units have one size.
        """
        soft = logits.sigmoid()
        order = logits.detach().argsort(dim=-1, descending=True, stable=True)
        n = self.params[order]
        taken = n.cumsum(-1) - 0.5 * n < (soft.detach() @ self.params)[:, None]
        taken[:, 0], taken[:, -1] = True, False
        hard = torch.zeros_like(soft).scatter(-1, order, taken.to(soft))
        return hard + soft - soft.detach()

    def project(self, scores: Tensor, sparsity: float) -> Tensor:
        """Remove the set whose scores have the largest sum, of those with the fewest parameters that reach the share.

        That is the likeliest set at this budget where units go independently, with ``scores`` as log odds.

        Args:
            scores: ``p x d``.
            sparsity: Share of sub-layers' parameters to remove, at least; in (0, 1).

        Raises:
            RequestError: If it takes all sub-layers.
        """
        N = self._compositions[self._total(sparsity)]
        worth = torch.zeros(len(scores), len(N), dtype=torch.float64)
        orders = []
        for column, members in enumerate(self._members):
            sorted_scores, order = scores[:, members].to(torch.float64).sort(dim=-1, descending=True, stable=True)
            sums = torch.cat([torch.zeros(len(scores), 1, dtype=torch.float64), sorted_scores.cumsum(-1)], -1)
            worth += sums[:, N[:, column]]
            orders.append(order)
        return self._taken(orders, N[worth.argmax(-1)])

    def _taken(self, orders: list[Tensor], counts: Tensor) -> Tensor:
        """Remove the first ``counts`` (``p x k``) of each size in the orders ``p x members``."""
        x = torch.zeros(len(counts), len(self.units), dtype=torch.float64)
        for column, (members, order) in enumerate(zip(self._members, orders, strict=True)):
            x[:, members] = (order.argsort(-1) < counts[:, column, None]).double()
        return x

    def near(self, X: Tensor, sparsity: float) -> Tensor:
        """The strategies that are at the budget already."""
        return (self.sparsity(X) - self.reaching(sparsity)).abs() < _SLACK

    def moved(self, X: Tensor, sparsity: float) -> Tensor:
        """The strategies as they are."""
        return X

    def scores(self, x: Tensor) -> Tensor:
        """Log odds that are far above 0 for removed units and far below for kept ones."""
        return 40.0 * (x - 0.5)

    def first(self, count: int, generator: Generator, most: float = 1.0) -> Tensor:
        """Single units, half of all at the most, evenly over the model; then random sets, ``count x d`` or fewer.

        Four in five sets are at a budget up to ``most``, the fifth at any, as in ``DepthSpace.first``.
        """
        d = len(self.units)
        singles = d if count >= 2 * d else max(1, count // 2)
        rows = [row_of(d, [index * d // singles]) for index in range(min(singles, count))]
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
        N = self._compositions[self._total(sparsity)]
        chosen = N[torch.randint(len(N), (count,), generator=generator)]
        orders = [torch.rand(count, len(members), generator=generator).argsort(-1) for members in self._members]
        worth = torch.rand(count, len(self.blocks.unique()), generator=generator, dtype=torch.float64)
        # Every parameter of a block is worth the same, so that units of one block go together.
        whole = self.project(worth[:, self.blocks] * self.params, sparsity)
        turns = torch.arange(count) % 2 == 0
        return torch.where(turns[:, None], whole, self._taken(orders, chosen))

    def neighbours(self, x: Tensor) -> Tensor:
        """Swap two units or two whole blocks, trade a unit for several smaller ones beside it, ``p x moves x d``.

        Rows that have fewer moves than others repeat themselves.
        """
        return self._moves(x)

    @cached_property
    def _moves(self) -> SublayerMoves:
        return SublayerMoves(self.unit_params, tuple(self.blocks.tolist()))

    @cached_property
    def blocks(self) -> Tensor:
        """The block of each unit, ``d`` whole numbers from 0."""
        return torch.tensor(number_blocks(self.units))

    def to_units(self, x: Tensor) -> dict[str, float]:
        """Name the removed sub-layers of one strategy, ``d``."""
        return units_of(self.units, x)

    def from_units(self, units: Mapping[str, float]) -> Tensor:
        """The inverse of ``to_units``.

        Raises:
            StrategyError: If a unit is unknown or a share is not 0 or 1.
        """
        return named_units(self.units, units, "sub-layer")

    def key(self, x: Tensor) -> str:
        """Indices of the removed sub-layers, such as ``"3,14,15"``."""
        return key_of(x)

    def parse(self, key: str) -> Tensor:
        """The inverse of ``key``, ``d``."""
        return parse_key(len(self.units), key)
