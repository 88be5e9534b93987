r"""The space of non-uniform sparsity: every unit loses a share of its weights.

====== ===== =====================================================
symbol shape meaning
====== ===== =====================================================
z      p x d scores, any real number: higher, sparser
s      p x d sparsities within the units' bounds
n      d     prunable weights of each unit
c      p     the constant that makes a row spend its budget
====== ===== =====================================================
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Generator, Tensor

from unicuco_plugin.errors import RequestError, StrategyError, quoted, round_down, round_up
from unicuco_plugin.spaces.filling import fill
from unicuco_plugin.spaces.units import name_block, name_kind
from unicuco_plugin.spaces.weighted import WeightedUnits

__all__ = ["BOUNDS", "SparsitySpace"]

# Beyond the upper end no one-shot method leaves a linear of any use, and the default ladder of levels ends there.
BOUNDS = (0.0, 0.9)
# Sparsities worth one strategy each; every other budget is met between them. Two per level of the default ladder: finer
# would spend evaluations on answers that are alike.
_GRID = tuple(round(0.05 * step, 2) for step in range(1, 20))
# Half a step of that, plus what rounding a strategy may move it by.
_NEAR = 0.0255
# Steps of a strategy in the journal: a hundredth of a per cent of a unit, far below what a divergence can show.
_STEP = 1e-4
# To what share of all weights a budget is met: as near as float64 gets. Comparisons of shares allow for many such sums.
_EXACT = 1e-15
_SLACK = 1e-9


@dataclass(frozen=True)
class SparsitySpace(WeightedUnits):
    """Strategies over blocks, sub-layers or linears: ``x_i`` is the share of unit ``i``'s weights that become zero.

    Attributes:
        unit_names: Full module names of the ``d`` units, in order.
        unit_params: Prunable weights of each.
        bounds: Least and largest share of each unit; ``BOUNDS`` for all where it is empty.
        exact: To what share of all weights a projection meets its budget, as far as float64 goes.
    """

    unit_names: tuple[str, ...]
    unit_params: tuple[int, ...]
    bounds: tuple[tuple[float, float], ...] = ()
    name: str = "sparsity"
    smooth: bool = True
    stepped: bool = False
    physical: bool = False
    exact: float = _EXACT
    needed: tuple[tuple[int, ...], ...] = ()
    mixes_budgets: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.bounds and len(self.bounds) != len(self.unit_names):
            raise StrategyError(f"bounds must be one pair per unit, got {len(self.bounds)} for {len(self.unit_names)}")
        for unit, (low, high) in zip(self.unit_names, self.bounds, strict=False):
            if not 0.0 <= low < high <= 1.0:
                raise StrategyError(
                    f"bounds[{quoted(unit)}] (--bounds) must be 0 <= low < high <= 1, got ({low}, {high})"
                )

    @cached_property
    def _low(self) -> Tensor:
        return torch.tensor([low for low, _ in self._bounds], dtype=torch.float64)

    @cached_property
    def _high(self) -> Tensor:
        return torch.tensor([high for _, high in self._bounds], dtype=torch.float64)

    @property
    def _bounds(self) -> tuple[tuple[float, float], ...]:
        return self.bounds or (BOUNDS,) * len(self.unit_names)

    @property
    def reach(self) -> tuple[float, float]:
        """The least and the largest sparsity that the bounds allow."""
        mean = torch.stack([self._low, self._high]) @ self.params / self.params.sum()
        return mean[0].item(), mean[1].item()

    @property
    def most(self) -> float:
        """The largest sparsity that the bounds allow."""
        return self.reach[1]

    @cached_property
    def features(self) -> Tensor:
        """``d x e``: the share lost, and by how much every block and every kind of module loses more than that.

        Every unit in their place where those are fewer. Kernels compare strategies in these coordinates: how much goes
        in all and where it goes have length scales of their own, ten units of one block act together far more than
        apart, and some hundred measurements cannot tell two hundred length scales.
        """
        groups = [*_group(self.units, name_block), *_group(self.units, name_kind)]
        if len(groups) >= len(self.units):
            groups = [[unit] for unit in range(len(self.units))]
        share = self.params / self.params.sum()
        G = torch.zeros(len(self.units), len(groups), dtype=torch.float64)
        for column, members in enumerate(groups):
            G[members, column] = self.params[members] / self.params[members].sum()
        return torch.cat([share[:, None], G - share[:, None]], 1)

    @property
    def scales(self) -> tuple[int, ...]:
        """One for how much goes and one for where: with one for each block, sixty measurements are overfitted."""
        return (0, *(1,) * (self.features.shape[1] - 1))

    @cached_property
    def budgets(self) -> tuple[float, ...]:
        """Every twentieth between the least and the most that the bounds allow."""
        low, high = self.reach
        return tuple(share for share in _GRID if low + _SLACK < share < high - _SLACK)

    def reaching(self, sparsity: float) -> float:
        """The sparsity itself.

        Raises:
            RequestError: If the bounds do not reach it.
        """
        low, high = self.reach
        if not low - _SLACK <= sparsity <= high + _SLACK:
            least = f"[{round_up(low)}" if low > _SLACK else "(0"
            raise RequestError(
                f"sparsity must be in {least}, {round_down(high + _SLACK)}], which the units' bounds allow (their "
                f"highest level, or unicuco train --bounds), got {sparsity:.6g}"
            )
        return sparsity

    def relax(self, logits: Tensor) -> Tensor:
        """Map scores into the bounds, ``s = clip(sigmoid(z), low, high)``; clipped values keep their gradient."""
        return self._clip(logits.sigmoid())

    def project(self, scores: Tensor, sparsity: float | Tensor) -> Tensor:
        """Raise or lower all scores by the one ``c`` that spends the budget: ``s = clip(sigmoid(z + c), low, high)``.

        Args:
            scores: ``p x d``.
            sparsity: Share of the prunable weights to remove, in the reach of the bounds; one, or ``p`` of them.

        Returns:
            ``p x d`` sparsities, differentiable in ``scores``; the weighted mean of each row is the budget to 1e-12.

        Raises:
            RequestError: If the bounds do not reach the budget.

        Source:
            KKT conditions of ``min_s sum_i n_i KL(s_i || sigmoid(z_i))``; docs/method.md, "Budgets, exactly".
        """
        for share in torch.as_tensor(sparsity, dtype=torch.float64).unique().tolist():
            self.reaching(share)
        return fill(scores.to(self.params), self.params, (self._low, self._high), sparsity, self.exact)

    def scores(self, x: Tensor) -> Tensor:
        """The scores of sparsities, ``p x d`` to ``p x d``: ``relax`` and ``project`` at its own budget return it."""
        return x.clamp(1e-6, 1.0 - 1e-6).logit()

    def near(self, X: Tensor, sparsity: float) -> Tensor:
        """The strategies within half a step of ``budgets``."""
        return (self.sparsity(X) - sparsity).abs() <= _NEAR

    def moved(self, X: Tensor, sparsity: float | Tensor) -> Tensor:
        """The strategies, each shifted onto the budget."""
        return self.project(self.scores(X), sparsity)

    def first(self, count: int, generator: Generator, most: float = 1.0) -> Tensor:
        """Uniform at every budget, then arithmetic progressions over depth at random ones up to ``most``.

        A progression's slope is up to 0.3 either way from the first block to the last, ATP's range; each unit has
        a score of its own beside it, so that no two directions stay confounded.
        """
        d = len(self.units)
        rows = [self.project(torch.zeros(1, d, dtype=torch.float64), budget) for budget in self.budgets][:count]
        depth = torch.linspace(-0.5, 0.5, d, dtype=torch.float64)
        while len(rows) < count:
            budget, slope = torch.rand(2, generator=generator, dtype=torch.float64)
            share = (
                self.budgets[0] + (max(min(self.budgets[-1], most), self.budgets[0]) - self.budgets[0]) * budget.item()
            )
            noise = 0.3 * torch.randn(d, generator=generator, dtype=torch.float64)
            rows.append(self.project((4.0 * 0.6 * (slope - 0.5) * depth + noise)[None], share))
        return self.rounded(torch.cat(rows))

    def random(self, count: int, sparsity: float, generator: Generator) -> Tensor:
        """Independent normal scores of deviation one half at one budget, ``count x d``."""
        z = 0.5 * torch.randn(count, len(self.units), generator=generator, dtype=torch.float64)
        return self.project(z, sparsity)

    def neighbours(self, x: Tensor) -> Tensor:
        """One unit raised or lowered by a score of 0.2, the others shifted back onto the budget, ``p x 2d x d``."""
        d = x.shape[1]
        steps = 0.2 * torch.cat([torch.eye(d, dtype=torch.float64), -torch.eye(d, dtype=torch.float64)])
        return torch.stack([self.project(self.scores(row) + steps, self.sparsity(row[None]).item()) for row in x])

    def rounded(self, x: Tensor) -> Tensor:
        """The nearest strategies that a journal can name, ``p x d``."""
        return (x / _STEP).round() * _STEP

    def to_units(self, x: Tensor) -> dict[str, float]:
        """Name the units that lose something in one strategy, ``d``."""
        return {unit: share for unit, share in zip(self.units, x.tolist(), strict=True) if share > 0.0}

    def from_units(self, units: Mapping[str, float]) -> Tensor:
        """The inverse of ``to_units``.

        Raises:
            StrategyError: If a unit is unknown or a share is outside [0, 1].
        """
        return self._row(units)

    def key(self, x: Tensor) -> str:
        """Every share in steps of 1e-4, such as ``"5000,6120"``."""
        return ",".join(str(round(share / _STEP)) for share in x.tolist())

    def parse(self, key: str) -> Tensor:
        """The inverse of ``key``, ``d``."""
        return torch.tensor([int(part) for part in key.split(",")], dtype=torch.float64) * _STEP

    def _clip(self, s: Tensor) -> Tensor:
        clipped = s.clamp(self._low, self._high)
        return s + (clipped - s).detach()


def _group(units: tuple[str, ...], of: Callable[[str], str]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for index, unit in enumerate(units):
        groups.setdefault(of(unit), []).append(index)
    return list(groups.values())
