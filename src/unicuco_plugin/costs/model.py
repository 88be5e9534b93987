"""What a space's strategies cost, each cost by its name; a search lowers one of them, requests limit the others.

====== ===== ====================================================
symbol shape meaning
====== ===== ====================================================
x      p x d strategies: the share removed of each of ``d`` units
n      d     prunable parameters of each unit
====== ===== ====================================================
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from unicuco_plugin.costs.device_table import DeviceTable
from unicuco_plugin.costs.table import CostTable
from unicuco_plugin.errors import StrategyError, quoted
from unicuco_plugin.schemes import DENSE_BITS
from unicuco_plugin.spaces.units import name_block

__all__ = ["Cost", "CostModel", "TableCosts", "kept_share", "objective_cost", "removed_share"]

Cost = Callable[[Tensor], Tensor]
"""``p x d`` strategies to ``p`` numbers."""

_KEPT, _BITS = "kept", "bits"
# Of a pair (parameters, bytes) in a table.
_COLUMNS = {"params": 0, "bytes": 1}


class CostModel(Protocol):
    """What strategies of one space over one model cost."""

    @property
    def names(self) -> tuple[str, ...]:
        """The costs it knows, such as ``params``; a request's limits are on these."""
        ...

    @property
    def objective(self) -> str:
        """Which of them a search lowers first: in [0, 1], 1 for the dense model, and with a gradient."""
        ...

    def of(self, name: str, x: Tensor) -> Tensor:
        """One cost of ``p x d`` strategies, ``p``; of parameters and bytes exact whole numbers."""
        ...

    def falls(self, name: str) -> tuple[float, float]:
        """How much of a cost goes with all prunable weights: about, and at the most; each 0 where nobody knows."""
        ...

    def share(self, name: str, limit: float) -> float | None:
        """The share that has to go for a limit, where a cost is one number with it; None where it is not."""
        ...


def objective_cost(costs: CostModel) -> Cost:
    """The first objective of a search, ``p x d`` to ``p``: the one place that says which cost it is."""
    return partial(costs.of, costs.objective)


def removed_share(params: Tensor, x: Tensor) -> Tensor:
    r"""The share of the prunable weights that goes, ``(x^T n) / sum_i n_i``, ``p``; differentiable.

    Args:
        params: ``n``, float64.
        x: ``p x d`` strategies.
    """
    return (x.to(params) @ params) / params.sum()


def kept_share(params: Tensor, x: Tensor) -> Tensor:
    """The share that is left; see :func:`removed_share`."""
    return 1.0 - removed_share(params, x)


@dataclass(frozen=True)
class TableCosts:
    """Costs of a checkpoint's strategies, added up from a table.

    ``kept`` is the share of the prunable weights that is left, whatever becomes of the others, or of their bits;
    ``params`` and ``bytes`` are those of the whole exported checkpoint, ``bits`` the mean of a weight of all units of
    the dense model, none where it is gone.

    Attributes:
        units: Full names of the ``d`` units.
        table: What they weigh.
        physical: Whether a unit that goes leaves by itself; otherwise it does with its whole block, if at all. Units
            that go part by part, or are stored by schemes, become smaller in any case.
        device: Times of the model's modules where it will run, if they were measured.
        space: Whose strategies they are, where times are corrected for them.
    """

    units: tuple[str, ...]
    table: CostTable
    physical: bool
    device: DeviceTable | None = field(default=None, kw_only=True)
    space: str = field(default="", kw_only=True)
    objective: ClassVar[str] = _KEPT

    def __hash__(self) -> int:
        """For what is remembered of costs; their tables hold mappings, which have none."""
        return hash((self.units, self.physical, self.space))

    @property
    def names(self) -> tuple[str, ...]:
        """The costs that strategies differ in."""
        return (_KEPT, "bytes", _BITS) if self.table.choices else (_KEPT, *_COLUMNS)

    def of(self, name: str, x: Tensor) -> Tensor:
        """One cost of ``p x d`` strategies, ``p``: ``kept`` and ``bits`` float64 with a gradient, exact int64 else."""
        if name in (_KEPT, _BITS):
            return kept_share(self.params, x) * (DENSE_BITS if name == _BITS else 1)
        return self._total(name) - self._leaving(_COLUMNS[name], x.detach().double())

    def row(self, shares: Mapping[str, float]) -> Tensor:
        """One strategy, ``1 x d``, whose units may be coarser than the table's.

        Args:
            shares: Unit → share removed. It covers the table's units whose name is its own or begins with it and a dot.

        Raises:
            StrategyError: If a unit covers none.
        """
        row, used = [], set()
        for unit in self.units:
            parts = unit.split(".")
            prefixes = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
            covering = next((prefix for prefix in prefixes if prefix in shares), None)
            used.add(covering)
            row.append(0.0 if covering is None else shares[covering])
        unknown = [name for name in shares if name not in used]
        if unknown:
            raise StrategyError(f"units must be among {self.units[0]} to {self.units[-1]}, got {quoted(unknown[0])}")
        return torch.tensor([row], dtype=torch.float64)

    def share(self, name: str, limit: float) -> float | None:
        """The share that has to go for a limit, where a cost is one number with it; None where it is not."""
        return {_KEPT: 1.0 - limit, _BITS: 1.0 - limit / DENSE_BITS}.get(name)

    def in_dtype(self, dtype: torch.dtype) -> "TableCosts":
        """The costs of the same checkpoint saved in another dtype; see :meth:`CostTable.in_dtype`."""
        name, own = str(dtype).removeprefix("torch."), getattr(torch, self.table.dtype)
        return replace(self, table=self.table.in_dtype(name, dtype.itemsize - own.itemsize))

    def falls(self, name: str) -> tuple[float, float]:
        """How much of a cost goes with all prunable weights: about, and at the most, 0 where nobody knows.

        Of units stored by schemes both are the most that any choice saves for its share: of a checkpoint in float32 the
        first bits save more than the last ones.
        """
        if name in (_KEPT, _BITS):
            most = 1.0 if name == _KEPT else float(DENSE_BITS)
            return most, most
        if self.table.choices:
            shares, saved = self._stored
            weights = shares * self.params[:, None]
            steepest = (saved / weights)[weights > 0.0].max().item() * self.params.sum().item()
            if self.table.blocks:  # what belongs to no unit goes with the last of them
                inside, beside = self._blocks
                steepest += (
                    beside[_COLUMNS[name]] / (self.params @ inside).clamp_min(1.0)
                ).max().item() * self.params.sum().item()
            return steepest, steepest
        params = self.params.sum().item()
        pairs = zip(self._weights[_COLUMNS[name]].tolist(), self.table.unit_params, strict=True)
        densest = max((weight / n for weight, n in pairs if n), default=0.0)
        return params * self._total(name) / self.table.total_params, densest * params

    def freed(self, name: str) -> Sequence[float]:
        """How much of a cost goes with all parts of each unit, ``d``; without what goes or comes beside them."""
        if name == _KEPT:
            return (self.params / self.params.sum()).tolist()
        return self.table.unit_params if name == "params" else self.table.unit_bytes

    def chosen(self, x: Tensor) -> Tensor:
        """Which choice of a unit each share of ``p x d`` float64 strategies is, ``p x d``, where units have choices."""
        return (x[..., None] - self.shares).abs().argmin(-1)

    @property
    def shares(self) -> Tensor:
        """Shares of bits that go with each choice of each unit, rising, ``d x k``; rows are filled up."""
        return self._stored[0]

    @cached_property
    def params(self) -> Tensor:
        """``n``, float64."""
        return torch.tensor(self.table.unit_params, dtype=torch.float64)

    def _total(self, name: str) -> int:
        return (self.table.total_params, self.table.total_bytes)[_COLUMNS[name]]

    @cached_property
    def _weights(self) -> Tensor:
        """``2 x d``: parameters and bytes of every unit."""
        return torch.tensor([self.table.unit_params, self.table.unit_bytes])

    @cached_property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """How many parts each unit has, ``d``, and what comes and goes beside them, ``2 x d`` each."""
        table = self.table
        return torch.tensor(table.parts)[:, 0], _columns(table.rests), _columns(table.biases)

    @cached_property
    def _blocks(self) -> tuple[Tensor, Tensor]:
        """Which units belong to each of ``b`` blocks that may leave, ``d x b`` of 0 and 1, and what they weigh."""
        own = [name_block(unit) for unit in self.units]
        inside = torch.tensor([[name == block for block in self.table.blocks] for name in own], dtype=torch.float64)
        return inside, _columns(list(self.table.blocks.values()))

    @cached_property
    def _stored(self) -> tuple[Tensor, Tensor]:
        """Shares of bits that go with each choice, rising, and the bytes saved, ``d x k`` each, rows filled up."""
        rows = self.table.choices
        longest = max(map(len, rows))
        full = [row + row[-1:] * (longest - len(row)) for row in rows]
        shares = torch.tensor([[1.0 - bits / DENSE_BITS for _, bits, _ in row] for row in full], dtype=torch.float64)
        size = torch.tensor([[size for _, _, size in row] for row in full])
        return shares, torch.tensor(self.table.unit_bytes)[:, None] - size

    def _leaving(self, column: int, x: Tensor) -> Tensor:
        each = self._weights[column]
        leaving = torch.zeros(len(x), dtype=torch.int64)
        if self.table.choices:
            _, saved = self._stored
            leaving = (
                saved.gather(1, self.chosen(x).T).sum(0) if column == _COLUMNS["bytes"] else ((x >= 1.0) * each).sum(-1)
            )
        elif self.table.parts:
            counts, rests, biases = self._parts
            gone = (x * counts).round().long()
            beside = torch.where(gone == counts, rests[column], -biases[column])
            leaving = (gone * (each // counts) + (gone > 0) * beside).sum(-1)
        elif self.physical:
            leaving = ((x > 0.0) * each).sum(-1)
        if self.table.blocks:
            inside, weights = self._blocks
            staying = (x < 1.0).double() @ inside
            leaving = leaving + ((staying == 0.0) * weights[column]).sum(-1)
        return leaving


def _columns(pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Pairs (parameters, bytes) as ``2 x n``."""
    return torch.tensor(pairs, dtype=torch.int64).T
