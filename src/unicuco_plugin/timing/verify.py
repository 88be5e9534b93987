"""An exported checkpoint timed as a whole, beside what a device's table predicted; the table keeps both."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from unicuco_plugin.costs.device_table import Device, DeviceTable, Observation
from unicuco_plugin.errors import RequestError
from unicuco_plugin.models.loading import load
from unicuco_plugin.quantities import Load, Phase
from unicuco_plugin.strategy import Strategy
from unicuco_plugin.timing.running import STEPS, Generation, describe_device

__all__ = ["Verified", "check_here", "time_checkpoint", "verify_latency"]

# Prompts that are timed; as many tokens each as in the table's own measurement.
_REPEATS = 5


@dataclass(frozen=True)
class Verified:
    """One phase of a checkpoint, in ms: predicted, with all corrections until then, and measured."""

    phase: Phase
    predicted: float
    measured: float


def check_here(file: Path, load: Load) -> DeviceTable:
    """A table that can be measured into here, and has times of a load.

    Raises:
        DeviceTableError: If it cannot be read, is of another device, or has none.
    """
    table = DeviceTable.read(file)
    table.device.check(describe_device(torch.device(table.device.kind), table.device.dtype), file)
    table.at("decode", load.batch, load.context)
    return table


def time_checkpoint(folder: Path, device: Device, asked: Load) -> dict[Phase, float]:
    """Time a checkpoint under a load.

    Returns:
        Milliseconds of one more token of every sequence, and of their prompts: medians.

    Raises:
        DeviceTableError: If the context is too long.
        UnsupportedModelError: If it cannot be loaded.
    """
    generation = Generation(load(folder, dtype=device.dtype, device=device.kind))
    generation.check(asked.context)
    generation.warm_up(asked.batch)
    runs = [generation.run(asked.batch, asked.context, STEPS) for _ in range(_REPEATS)]
    return {phase: median(ms for run in runs for ms in run[phase]) for phase in runs[0]}


def verify_latency(folder: Path, strategy: Strategy, file: Path) -> list[Verified]:
    """Time an exported checkpoint, and write what was measured into the table, whose later predictions use it.

    Args:
        folder: The checkpoint that a strategy made.
        strategy: With the times that were predicted from this very table.
        file: The table's.

    Raises:
        RequestError: If the strategy has no times.
        DeviceTableError: If the table cannot be read or written, or is of another device.
        UnsupportedModelError: If the checkpoint cannot be loaded.
    """
    asked, latency = strategy.request.load, strategy.latency
    if asked is None or latency is None:
        raise RequestError(
            "verify-latency needs a prediction, got none: ask a profile, with --device-table FILE and --context N"
        )
    table = check_here(file, asked)
    measured = time_checkpoint(folder, table.device, asked)
    said = {"decode": latency.decode, "prefill": latency.prefill}
    found = [Verified(phase, said[phase], ms) for phase, ms in measured.items()]
    observed = [
        Observation(
            space=strategy.space,
            phase=one.phase,
            batch=asked.batch,
            context=asked.context,
            predicted=one.predicted / table.correction(strategy.space, one.phase),
            measured=one.measured,
        )
        for one in found
    ]
    table.model_copy(update={"observations": (*table.observations, *observed)}).write(file)
    return found
