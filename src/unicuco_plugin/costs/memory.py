"""What a server needs to hold: weights, what it keeps for each sequence, and room for one step; added up from a table.

====== ===== ===========================================================
symbol shape meaning
====== ===== ===========================================================
x      p x d strategies: the share removed of each of ``d`` units
====== ===== ===========================================================

Pages, windows and the length of a step are vLLM 0.32's (``v1/kv_cache_interface.py``, ``engine/arg_utils.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from unicuco_plugin.costs.model import TableCosts
from unicuco_plugin.costs.table import CostTable, KeptState, ServingTable
from unicuco_plugin.errors import RequestError
from unicuco_plugin.quantities import Load
from unicuco_plugin.spaces.units import name_block

__all__ = ["MEMORY", "ServedCosts"]

MEMORY = "memory"
# Tokens that are kept together.
_PAGE = 16
# The most tokens of a step: the default of vLLM's server but on cards of 70 GiB and more, where it is 8192.
_STEP = 2048
# Bytes of a number of the sampler, beside the model's own logits: a copy in float32, probabilities, and noise.
_SAMPLER = 12
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1}


@dataclass(frozen=True)
class ServedCosts(TableCosts):
    """Costs of a checkpoint's strategies, with the memory that a server needs under a load.

    Attributes:
        serving: The table of what is kept; also in ``table``.
        load: How many sequences of how many tokens are held at once.
        priced: Whether shares are counted in ``prices``, as in a space whose units weigh that much.
    """

    serving: ServingTable
    load: Load
    priced: bool = False

    @classmethod
    def under(cls, costs: TableCosts, load: Load, *, priced: bool = False) -> "ServedCosts":
        """The same costs under a load.

        Raises:
            RequestError: If the table does not say what is kept.
        """
        if costs.table.serving is None:
            raise RequestError(
                f"memory at context {load.context} cannot be told by this profile, which has no table of caches: an "
                "older unicuco-plugin wrote it, or its family keeps what nobody knows here; train it again with "
                "--resume, which measures nothing anew, or ask for max_bytes"
            )
        own = {field.name: getattr(costs, field.name) for field in fields(TableCosts)}
        return cls(**own, serving=costs.table.serving, load=load, priced=priced)

    @property
    def names(self) -> tuple[str, ...]:
        """The costs that strategies differ in, with ``memory``."""
        return (*super().names, MEMORY)

    def of(self, name: str, x: Tensor) -> Tensor:
        """One cost of ``p x d`` strategies, ``p``; ``memory`` in bytes, exact int64."""
        if name != MEMORY:
            return super().of(name, x)
        return super().of("bytes", x) + self.cache(x) + self.buffers

    def share(self, name: str, limit: float) -> float | None:
        """See :meth:`TableCosts.share`; none where shares are counted in memory."""
        return super().share(name, limit) if not self.priced else None

    @cached_property
    def prices(self) -> tuple[int, ...] | None:
        """Bytes of memory that go with all parts of each unit, where units go part by part, else None.

        A space whose units weigh this much removes memory: under a long context attentions rather than MLPs.
        """
        if not self.table.parts:
            return None
        kept = dict(zip((entry.holder for entry in self.serving.kept), self._kept.tolist(), strict=True))
        rows = zip(self.units, self.table.unit_bytes, self.table.parts, strict=True)
        return tuple(size + kept.get(unit, 0) // count * count for unit, size, (count, _) in rows)

    def falls(self, name: str) -> tuple[float, float]:
        """How much of a cost goes with all prunable weights, or with all ``prices``; see :meth:`TableCosts.falls`.

        Of memory nobody knows about how much where units are not priced by it: it depends on what goes.
        """
        if self.priced and self.prices:
            total = float(sum(self.prices))
            if name == MEMORY:
                return total, total
            pairs = zip(self.freed(name), self.prices, strict=True)
            return 0.0, max((freed / price for freed, price in pairs if price), default=0.0) * total
        if name != MEMORY:
            return super().falls(name)
        _, most = super().falls("bytes")
        params, densest = self.params.sum().item(), 0.0
        for kept, units in zip(self._kept.tolist(), self._holders, strict=True):
            own = sum(self.table.unit_params[unit] for unit in units)
            densest = max(densest, kept / own if own else 0.0)
        return 0.0, most and most + densest * params

    def freed(self, name: str) -> Sequence[float]:
        """See :meth:`TableCosts.freed`; of memory what units are priced by."""
        return self.prices or () if name == MEMORY else super().freed(name)

    @property
    def buffers(self) -> int:
        """Bytes of one step: its states where it is widest, and the logits of all sequences.

        Those of the dense model: an upper bound, since the widest block may stay.
        """
        tokens = min(_STEP, self.load.batch * self.load.context)
        width = _WIDTHS.get(self.table.dtype, 2)
        return tokens * self.serving.widest * width + self.load.batch * self.serving.logits * (width + _SAMPLER)

    def cache(self, x: Tensor) -> Tensor:
        """Bytes that are kept for all sequences, ``p``, int64.

        What a strategy leaves out of the checkpoint keeps nothing: blocks that leave, head groups and attentions that
        are taken out. What it only silences or zeroes stays, and keeps as much as before.
        """
        left = self._kept.sum().expand(len(x)).clone()
        for kept, units, entry in zip(self._kept, self._holders, self.serving.kept, strict=True):
            gone = x[:, list(units)].double()
            if not units:
                continue
            if self.table.parts and entry.holder in self.units:
                count = self.table.parts[units[0]][0]
                away = (gone[:, 0] * count).round().long() * (kept // count)
            else:
                away = (gone >= 1.0).all(-1).long() * kept
            left -= away
        return left

    @cached_property
    def _kept(self) -> Tensor:
        """Bytes of each layer that keeps something, for all sequences of the dense model, int64."""
        own = _WIDTHS.get(self.table.dtype, 2)
        width = _WIDTHS.get(self.load.cache_dtype or self.table.dtype, own)
        each = [
            entry.numbers * _tokens(self.load.context, entry.window) * width + entry.state * own
            for entry in self.serving.kept
        ]
        return torch.tensor(each, dtype=torch.int64) * self.load.batch

    @cached_property
    def _holders(self) -> tuple[tuple[int, ...], ...]:
        """The units with all of which each layer leaves the checkpoint; none where it never does."""
        return tuple(
            _leaving_with(self.units, self.table, entry, physical=self.physical) for entry in self.serving.kept
        )


def _tokens(context: int, window: int) -> int:
    """Tokens that have room in the pages of one sequence; a window slides on while a step is computed."""
    if not window:
        return -(-context // _PAGE) * _PAGE
    return (-(-min(window - 1 + _STEP, context) // _PAGE) + 1) * _PAGE


def _leaving_with(units: Sequence[str], table: CostTable, entry: KeptState, *, physical: bool) -> tuple[int, ...]:
    block = name_block(entry.holder)
    if table.parts:
        return (units.index(entry.holder),) if entry.holder in units else ()
    if block in table.blocks:
        return tuple(index for index, unit in enumerate(units) if name_block(unit) == block)
    alone = [name for name in (entry.holder, block) if physical and not table.choices and name in units]
    return (units.index(alone[0]),) if alone else ()
