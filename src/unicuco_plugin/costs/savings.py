"""What goes of a time with what a strategy takes out, narrows or stores, read off a device's table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from unicuco_plugin.costs.device_table import DeviceTable
from unicuco_plugin.costs.model import TableCosts
from unicuco_plugin.costs.untimed import timed_as
from unicuco_plugin.errors import DeviceTableError, RequestError, quoted
from unicuco_plugin.quantities import Load, Phase
from unicuco_plugin.schemes import DENSE, REMOVED
from unicuco_plugin.spaces.units import name_block

__all__ = ["Savings", "read_savings"]


@dataclass(frozen=True)
class Savings:
    """What goes of a time, in ms.

    Attributes:
        whole: Of the dense model.
        scale: Correction of predictions.
        parts: Of each unit: what is saved when 0, 1, … of its parts are gone, or by each of its choices, ``d x (most
            parts + 1)``, rows filled up; not a number for a scheme that was not timed.
        rests: Of each block that may leave: what is left of it when all its units are gone.
    """

    whole: float
    scale: float
    parts: Tensor
    rests: Tensor


def read_savings(costs: TableCosts, device: DeviceTable, space: str, load: Load, phase: Phase) -> Savings:
    """Read them for one space, load and phase.

    Raises:
        RequestError: If the table has no times of the load, or of a unit.
    """
    try:
        whole, times = device.at(phase, load.batch, load.context)
        saved = device.saved_at(phase, load.batch, load.context)
    except DeviceTableError as error:
        raise RequestError(str(error)) from error
    if costs.table.choices:
        rows = zip(costs.units, costs.table.choices, strict=True)
        parts = [np.array([_choice(saved, unit, name) for name, *_ in row]) for unit, row in rows]
    else:
        left = _Left(costs, device, times)
        parts = [row[-1] - row[::-1] for row in map(left.of, costs.units)]
    longest = max(map(len, parts))
    padded = np.stack([np.pad(row, (0, longest - len(row)), "edge") for row in parts])
    rests = []
    for block in costs.table.blocks:
        own = [row[-1] for unit, row in zip(costs.units, parts, strict=True) if name_block(unit) == block]
        rests.append(sum(times[shape][-1] for _, shape in _modules(device, block)) - sum(own))
    key = timed_as(space, absent=costs.physical)
    scale = device.correction(key, phase, load.batch, load.context)
    return Savings(whole, scale, torch.from_numpy(padded), torch.tensor(rests, dtype=torch.float64))


def _choice(saved: dict[tuple[str, str], float], unit: str, scheme: str) -> float:
    """What a unit saves in a scheme; what is gone is told with its block."""
    return 0.0 if scheme in (DENSE, REMOVED) else saved.get((unit, scheme), math.nan)


@dataclass(frozen=True)
class _Left:
    """What units take when 0, 1, … of their parts are left; wider is never faster, whatever noise says."""

    costs: TableCosts
    device: DeviceTable
    times: Sequence[Sequence[float]]
    _rows: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)  # thousands of parts, alike in most blocks

    def of(self, unit: str) -> np.ndarray:
        if self.costs.table.parts:
            return self._parts(unit)
        if not self.costs.physical:
            return np.zeros(2)  # what is silenced runs; only with its block it goes
        modules = _modules(self.device, unit)
        full = sum(self.times[shape][-1] for _, shape in modules)
        own = [self.device.shapes[shape].widths[0] == 0 and name == unit for name, shape in modules]
        kept = sum(self.times[shape][0] for (_, shape), absent in zip(modules, own, strict=True) if absent)
        return np.array([min(kept, full), full])

    def _parts(self, unit: str) -> np.ndarray:
        [(_, shape)] = _modules(self.device, unit)
        count = self.costs.table.parts[self.costs.units.index(unit)][0]
        widths = self.device.shapes[shape].widths
        if widths[-1] != count or len(widths) < 2:
            raise RequestError(f"{unit} has {count} parts, the device table timed {widths[-1]}: profile it again")
        if (shape, count) not in self._rows:
            falling = np.minimum.accumulate(self.times[shape][::-1])[::-1]
            self._rows[shape, count] = np.interp(range(count + 1), widths, falling)
        return self._rows[shape, count]


def _modules(device: DeviceTable, unit: str) -> list[tuple[str, int]]:
    """What a unit was timed as, by names and indices of shapes."""
    known = device.modules
    found = [(n, known[n]) for n in ([unit] if unit in known else known) if n == unit or n.startswith(f"{unit}.")]
    if not found:
        raise RequestError(f"latency cannot be told of {quoted(unit)}, which the device table has no time of")
    return found
