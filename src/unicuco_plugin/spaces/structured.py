r"""The space of structured pruning: attentions lose head groups, MLPs lose neurons, either may go whole.

====== ===== =====================================================================
symbol shape meaning
====== ===== =====================================================================
z      p x d scores, any real number: higher, more goes
s      p x d shares ``sigmoid(z + c)`` that spend a budget before they are rounded
n      d     prunable parameters of each unit
====== ===== =====================================================================
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Generator, Tensor

from unicuco_plugin.errors import RequestError, StrategyError, round_down
from unicuco_plugin.spaces.sparsity import SparsitySpace
from unicuco_plugin.spaces.stepped import SteppedUnits
from unicuco_plugin.spaces.steps import Steps
from unicuco_plugin.spaces.units import name_kind
from unicuco_plugin.spaces.weighted import WeightedUnits

__all__ = ["ROUND_TO", "StructuredSpace"]

# Neurons that go together: widths in multiples of 32 are what matrix kernels like.
ROUND_TO = 32
# To what share of all weights the smooth budget is met, before rounding to steps, which does not see more.
_EXACT = 1e-9
# Half a step of ``budgets``.
_NEAR = 0.0255
# Where in its first or last step, in steps, a share of 0 or 1 is taken to be: scores must be finite.
_EDGE = 1e-3
# The score of a unit that is to stay, or go, whatever the shift: its sigmoid is 0 or 1 to 4e-18.
_WHOLE = 40.0
# Moves between neighbours are an eighth of a unit, or one step where that is more. A choice, not tuned.
_MOVE = 8


@dataclass(frozen=True)
class StructuredSpace(SteppedUnits, WeightedUnits):
    """Strategies over attentions and MLPs: ``x_i`` is the share of unit ``i``'s parts that goes, in whole steps.

    A unit of ``count`` equal parts loses them ``step`` at a time; its last step may be smaller.

    Attributes:
        unit_names: Full module names of the ``d`` units, in the order of the model.
        unit_params: Parameters of all parts of each.
        unit_parts: ``(count, step)`` of each.

    Raises:
        StrategyError: If parts are missing, or a count does not divide its unit's parameters.
    """

    unit_names: tuple[str, ...]
    unit_params: tuple[int, ...]
    unit_parts: tuple[tuple[int, int], ...]
    bounds: tuple[tuple[float, float], ...] = ()
    name: str = "structured"
    smooth: bool = True
    stepped: bool = True
    physical: bool = True
    scales: tuple[int, ...] = ()
    needed: tuple[tuple[int, ...], ...] = ()
    mixes_budgets: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if len(self.unit_parts) != len(self.unit_names):
            raise StrategyError(
                f"parts must be one pair per unit, got {len(self.unit_parts)} for {len(self.unit_names)}"
            )
        for unit, params, (count, step) in zip(self.unit_names, self.unit_params, self.unit_parts, strict=True):
            if not 0 < step <= count or params % count:
                raise StrategyError(f"parts[{unit!r}] must be steps of equal parts of {params}, got ({count}, {step})")

    @cached_property
    def _steps(self) -> Steps:
        return Steps.of_parts(self.unit_params, self.unit_parts)

    @cached_property
    def _smooth(self) -> SparsitySpace:
        """The same units before shares are rounded to steps."""
        return SparsitySpace(self.unit_names, self.unit_params, ((0.0, 1.0),) * len(self.unit_names), exact=_EXACT)

    @cached_property
    def features(self) -> Tensor:
        """The identity: what an attention loses is not what the MLP beside it loses."""
        return torch.eye(len(self.units), dtype=torch.float64)

    @cached_property
    def most(self) -> float:
        """The largest share that can be met: one step stays, the smallest there is."""
        return 1.0 - self._steps.smallest / self.params.sum().item()

    @cached_property
    def budgets(self) -> tuple[float, ...]:
        """Every twentieth below what is left with one step; every budget between them can be met too."""
        return tuple(share for share in (round(0.05 * step, 2) for step in range(1, 20)) if share < self.most)

    def reaching(self, sparsity: float) -> float:
        """The sparsity itself: steps bring it within one of them.

        Raises:
            RequestError: If nothing would be left.
        """
        if not 0.0 < sparsity <= self.most:
            raise RequestError(
                f"sparsity must be in (0, {round_down(self.most)}] for structured: one step of one unit has to stay, "
                f"got {sparsity:.6g}"
            )
        return sparsity

    def near(self, X: Tensor, sparsity: float) -> Tensor:
        """The strategies within half a step of ``budgets``."""
        return (self.sparsity(X) - sparsity).abs() <= _NEAR

    def scores(self, x: Tensor) -> Tensor:
        """Log odds of the shares, those at either end a thousandth of a step inside."""
        edge = (_EDGE / self._steps.most).expand_as(x)
        return x.clamp(edge, 1.0 - edge).logit()

    def first(self, count: int, generator: Generator, most: float = 1.0) -> Tensor:
        """Uniform at every budget, then random scores at random budgets up to ``most``, ``count x d`` or fewer."""
        d = len(self.units)
        budgets = [budget for budget in self.budgets if budget <= most + 1e-9] or list(self.budgets[:1])
        rows = [self.project(torch.zeros(1, d, dtype=torch.float64), budget) for budget in budgets][:count]
        while len(rows) < count:
            budget = budgets[int(torch.randint(len(budgets), (1,), generator=generator))]
            rows.append(self.random(1, budget, generator))
        return torch.cat(rows)

    def random(self, count: int, sparsity: float, generator: Generator) -> Tensor:
        """Normal scores, of each unit (deviation 1.5) and common to each kind of unit (deviation 1), ``count x d``."""
        kinds = sorted({name_kind(unit) for unit in self.units})
        of = torch.tensor([kinds.index(name_kind(unit)) for unit in self.units])
        z = 1.5 * torch.randn(count, len(self.units), generator=generator, dtype=torch.float64)
        z += torch.randn(count, len(kinds), generator=generator, dtype=torch.float64)[:, of]
        return self.project(z, sparsity)

    def neighbours(self, x: Tensor, only: Tensor | None = None) -> Tensor:
        """One unit kept whole, removed whole, or moved by an eighth either way, the others shifted: ``p x 4d x d``.

        Args:
            x: ``p x d``.
            only: Numbers of the moves to make, ``p x moves``; all ``4d`` where it is left out.
        """
        p, d = x.shape
        only = torch.arange(4 * d).expand(p, -1) if only is None else only
        rows, unit = torch.arange(p)[:, None], only % d
        changed = self.scores(x)[:, None].repeat(1, only.shape[1], 1)
        there = self._moved(x)
        ends = torch.cat(
            [self.scores(there[:, :2].flatten(0, 1)).view(p, 2, d), _WHOLE * (2.0 * there[:, 2:] - 1.0)], 1
        )
        changed.scatter_(2, unit[..., None], ends.flatten(1)[rows, only][..., None])
        budgets = self.sparsity(x).repeat_interleave(only.shape[1])
        return self.project(changed.flatten(0, 1), budgets).view(p, -1, d)

    def sketch(self, x: Tensor) -> Tensor:
        """About what ``neighbours`` makes of each row: the others shifted to first order, no whole steps."""
        n, there = self.params, self._moved(x)
        v = self._bend(x)
        left = (n * v).sum(-1)[:, None, None] - (n * v)[:, None]
        shift = n * (x[:, None] - there) / left.clamp_min(1e-300)
        moves = (x[:, None, None] + shift[..., None] * v[:, None, None]).clamp(0.0, 1.0)
        moves.diagonal(dim1=2, dim2=3).copy_(there)
        return moves.flatten(1, 2)

    def _bend(self, x: Tensor) -> Tensor:
        """How shares move with one shift of all scores."""
        s = self.scores(x).sigmoid()
        return s * (1.0 - s)

    def _moved(self, x: Tensor) -> Tensor:
        """Shares of single units after an eighth less, an eighth more, kept whole, and removed whole: ``p x 4 x d``."""
        by, k = (self._steps.most / _MOVE).round().clamp_min(1), self._steps.count(x)
        eighths = [self._steps.shares((k + sign * by).clamp_min(0)) for sign in (-1.0, 1.0)]
        return torch.stack([*eighths, torch.zeros_like(x), torch.ones_like(x)], 1)

    def to_units(self, x: Tensor) -> dict[str, float]:
        """Name the units that lose something in one strategy, ``d``."""
        return {unit: share for unit, share in zip(self.units, self.rounded(x).tolist(), strict=True) if share > 0.0}

    def from_units(self, units: Mapping[str, float]) -> Tensor:
        """The inverse of ``to_units``; shares between two steps are taken to the nearer.

        Raises:
            StrategyError: If a unit is unknown or a share is outside [0, 1].
        """
        return self.rounded(self._row(units))
