"""What a strategy's model takes to run under a load, added up from a device's table.

====== ===== ===========================================================
symbol shape meaning
====== ===== ===========================================================
x      p x d strategies: the share removed of each of ``d`` units
====== ===== ===========================================================

The whole dense model's time, less what each unit saves: nothing is believed of embeddings, norms, the head and the
engine's own work but that they stay as they are.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from unicuco_plugin.costs.device_table import DeviceTable
from unicuco_plugin.costs.memory import MEMORY, ServedCosts
from unicuco_plugin.costs.model import TableCosts
from unicuco_plugin.costs.savings import Savings, read_savings
from unicuco_plugin.costs.untimed import why_untimed
from unicuco_plugin.quantities import Latency, Load, Phase
from unicuco_plugin.spaces.units import name_block

__all__ = ["LATENCY", "TIME", "TimedCosts", "under_load"]

LATENCY, TIME = "latency", "time"
_TIMED = (LATENCY, TIME)
_LEAST = 1e-9  # ms that are saved altogether, at the least: 0 would say that nobody knows
_PER_MS = 10**9  # prices are whole numbers: picoseconds
_MOST = 32  # loads that are remembered, of all profiles


@dataclass(frozen=True)
class TimedCosts:
    """Costs of a checkpoint's strategies, with ``latency``, in ms for one more token, and ``time``.

    ``time`` is the share of the dense model's time that is left, in the load's phase.

    Attributes:
        costs: The others, under the same load.
        device: Times; its space's corrections count.
        load: What is run at once.
        price: Which of the two units are priced by; empty where shares are of weights, or of what ``costs`` prices.
    """

    costs: TableCosts
    device: DeviceTable
    space: str
    load: Load
    price: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The costs that strategies differ in; times where they are known of all."""
        unknown = self.costs.table.choices and why_untimed(self.costs)
        return self.costs.names if unknown else (*self.costs.names, *_TIMED)

    @property
    def objective(self) -> str:
        """See :class:`TableCosts`."""
        return self.costs.objective

    def of(self, name: str, x: Tensor) -> Tensor:
        """One cost of ``p x d`` strategies, ``p``; ``latency`` in ms and ``time`` in float64."""
        if name == LATENCY:
            return self.milliseconds("decode", x)
        if name == TIME:
            return self.milliseconds(self.load.phase, x) / self._savings(self.load.phase).whole
        return self.costs.of(name, x)

    def milliseconds(self, phase: Phase, x: Tensor) -> Tensor:
        """What one more token, or the prompt, of every sequence takes, ``p``, float64, in ms.

        Not a number for a strategy with a scheme that was not timed.
        """
        savings, left = self._savings(phase), x.detach().double()
        gone = self.costs.chosen(left) if self.costs.table.choices else (left * self._counts).round().long()
        saved = savings.parts.gather(1, gone.T).sum(0)
        if self.costs.table.blocks:
            staying = (left < 1.0).double() @ self._inside
            saved = saved + (staying == 0.0).double() @ savings.rests
        return (savings.whole - saved) * savings.scale

    def latency(self, x: Tensor) -> Latency | None:
        """What one strategy's model takes, ``1 x d``; None where the load, or a scheme of it, was not timed."""
        if not self.device.reaches(self.load.batch, self.load.context):
            return None
        decode, prefill = (self.milliseconds(phase, x).item() for phase in ("decode", "prefill"))
        if math.isnan(decode):
            return None
        return Latency(
            decode=max(decode, _LEAST),
            prefill=max(prefill, _LEAST),
            dense_decode=self._savings("decode").whole,
            dense_prefill=self._savings("prefill").whole,
            scale_decode=self._savings("decode").scale,
            scale_prefill=self._savings("prefill").scale,
            device=self.device.device.name,
            engine=self.device.device.engine,
            dtype=self.device.device.dtype,
        )

    def share(self, name: str, limit: float) -> float | None:
        """See :meth:`TableCosts.share`; none where shares are counted in time."""
        return None if self.price or name in _TIMED else self.costs.share(name, limit)

    def falls(self, name: str) -> tuple[float, float]:
        """How much of a cost goes with all that shares are counted in; see :meth:`TableCosts.falls`."""
        total = self._weights.sum().item()
        if name in _TIMED:
            phase: Phase = "decode" if name == LATENCY else self.load.phase
            savings = self._savings(phase)
            steepest = self._steepest(savings)
            if self.costs.table.blocks:
                steepest = steepest + (savings.rests / (self._weights @ self._inside).clamp_min(1.0)).max()
            most = max(steepest.item() * total * savings.scale, _LEAST)
            # What all parts save between them, where that is what they are priced by: the last ones save most.
            about = savings.parts[:, -1].sum().item() * savings.scale if name == self.price else 0.0
            whole = savings.whole if name == TIME else 1.0
            return about / whole, most / whole
        if not self.price:
            return self.costs.falls(name)
        pairs = zip(self.costs.freed(name), self._weights.tolist(), strict=True)
        return 0.0, max((freed / weight for freed, weight in pairs if weight), default=0.0) * total

    def _steepest(self, savings: Savings) -> Tensor:
        """The most that is saved for a weight, or for the bits of one."""
        if self.costs.table.choices:
            weights = self.costs.shares * self._weights[:, None]
            return (savings.parts / weights)[weights > 0.0].max()
        return (savings.parts.diff(dim=1).amax(1) / (self._weights / self._counts))[self._weights > 0].max()

    @cached_property
    def prices(self) -> tuple[int, ...] | None:
        """What goes with all parts of each unit of what shares are counted in; None where that is weights."""
        if not self.price:
            return self.costs.prices if isinstance(self.costs, ServedCosts) and self.costs.priced else None
        saved = self._savings("decode" if self.price == LATENCY else self.load.phase).parts[:, -1]
        counts = self._counts.long().tolist()
        return tuple(
            count * max(1, round(_PER_MS * ms / count)) for ms, count in zip(saved.tolist(), counts, strict=True)
        )

    @cached_property
    def _weights(self) -> Tensor:
        """What shares are counted in, ``d``, float64."""
        return self.costs.params if self.prices is None else torch.tensor(self.prices, dtype=torch.float64)

    @cached_property
    def _counts(self) -> Tensor:
        """Parts of each unit, ``d``."""
        parts = self.costs.table.parts
        return torch.tensor([count for count, _ in parts] or [1] * len(self.costs.units), dtype=torch.float64)

    @cached_property
    def _inside(self) -> Tensor:
        """Which units belong to each of ``b`` blocks that may leave, ``d x b`` of 0 and 1."""
        own = [name_block(unit) for unit in self.costs.units]
        return torch.tensor([[name == b for b in self.costs.table.blocks] for name in own], dtype=torch.float64)

    def _savings(self, phase: Phase) -> Savings:
        if phase not in self._known:
            self._known[phase] = read_savings(self.costs, self.device, self.space, self.load, phase)
        return self._known[phase]

    @cached_property
    def _known(self) -> dict[str, Savings]:
        return {}


@lru_cache(_MOST)
def under_load(costs: TableCosts, load: Load, price: str = "") -> ServedCosts | TimedCosts:
    """The same costs under a load, with memory where it is known and times where a device was profiled; remembered.

    Args:
        costs: Of the checkpoint.
        load: What is held and run at once.
        price: The cost that units are to be priced by; weights where it is empty, or not known.

    Raises:
        RequestError: If neither memory nor time is known.
    """
    timed = costs.device is not None and (not why_untimed(costs) or bool(costs.device.stored and costs.table.choices))
    if costs.table.serving is not None or not timed or price == MEMORY:
        costs = served = ServedCosts.under(costs, load, priced=price == MEMORY)
    if costs.device is None or not timed:
        return served
    priced = price in _TIMED and costs.table.parts
    return TimedCosts(costs, costs.device, costs.space, load, price if priced else "")
