"""An exported checkpoint timed as a whole, beside what a device's table predicted; the table keeps both."""

import gc
from pathlib import Path
from statistics import median
from typing import Any

from unicuco_plugin.costs.device_table import DeviceTable
from unicuco_plugin.costs.timings import Device, Observation
from unicuco_plugin.costs.untimed import timed_as
from unicuco_plugin.errors import DeviceTableError, RequestError
from unicuco_plugin.models.loading import load, load_model
from unicuco_plugin.quantities import Latency, Load, Phase
from unicuco_plugin.strategy import Strategy
from unicuco_plugin.timing.holding import hold_table
from unicuco_plugin.timing.running import STEPS, Generation, check_folder, describe_device, find_device

__all__ = ["check_here", "time_checkpoint", "verify_latency"]

# Prompts that are timed; as many tokens each as in the table's own measurement.
_REPEATS = 5
# Seconds that another process may take to write into the table.
_LONGEST = 10.0


def check_here(file: Path, load: Load) -> DeviceTable:
    """A table that can be measured into here, and has times of a load.

    Raises:
        DeviceTableError: If it cannot be read or written, is of another device, or has none.
    """
    table = DeviceTable.read(file)
    check_folder(file)
    table.device.check(describe_device(find_device(table.device.kind, file), table.device.dtype), file)
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
    return _time(load(folder, dtype=device.dtype, device=device.kind), asked)


def _time(model: Any, asked: Load) -> dict[Phase, float]:  # noqa: ANN401 - a Transformers model
    generation = Generation(model)
    generation.check(asked.context)
    generation.warm_up(asked.batch)
    runs = [generation.run(asked.batch, asked.context, STEPS) for _ in range(_REPEATS)]
    return {phase: median(ms for run in runs for ms in run[phase]) for phase in runs[0]}


def verify_latency(
    folder: Path, strategy: Strategy, file: Path, dense: str | Path, *, revision: str | None = None, format: str = ""
) -> list[Observation]:
    """Time an exported checkpoint, and the dense model before it, and write both into the table for later predictions.

    Args:
        folder: The checkpoint that a strategy made.
        strategy: With the times that were predicted from this very table.
        file: The table's.
        dense: The dense model: a folder, or a name on the hub.
        revision: A branch, tag or commit there.
        format: The checkpoint's form, as the export says it.

    Returns:
        What was written, one for each phase.

    Raises:
        RequestError: If the strategy has no times.
        DeviceTableError: If the table cannot be read or written, is of another device, or is not that the times were
            predicted from.
        UnsupportedModelError: If the checkpoint, or the model, cannot be loaded.
    """
    asked, latency = strategy.request.load, strategy.latency
    if asked is None or latency is None:
        raise RequestError(
            "verify-latency needs a prediction, got none for this checkpoint in its form: ask a profile, with "
            "--device-table FILE and --context N"
        )
    table = check_here(file, asked)
    _check_source(table, latency, asked, file)
    device = table.device
    before = _time(load_model(dense, revision=revision, dtype=device.dtype, device=device.kind, prunable=False), asked)
    gc.collect()  # hooks and modules hold each other
    found = time_checkpoint(folder, device, asked)
    observed = [
        Observation(
            space=timed_as(strategy.space, absent=format == "deci"),
            phase=phase,
            batch=asked.batch,
            context=asked.context,
            predicted=getattr(latency, phase) / getattr(latency, f"scale_{phase}"),
            measured=ms,
            dense_predicted=getattr(latency, f"dense_{phase}"),
            dense_measured=before[phase],
        )
        for phase, ms in found.items()
    ]
    with hold_table(file, _LONGEST):
        table = DeviceTable.read(file)  # as it is now: timing takes minutes
        _check_source(table, latency, asked, file)
        table.model_copy(update={"observations": (*table.observations, *observed)}).write(file)
    return observed


def _check_source(table: DeviceTable, latency: Latency, asked: Load, file: Path) -> None:
    dense: dict[Phase, float] = {"decode": latency.dense_decode, "prefill": latency.dense_prefill}
    for phase, own in dense.items():
        if table.at(phase, asked.batch, asked.context)[0] != own:
            raise DeviceTableError(
                f"device table {file} was replaced since the times were predicted from it; nothing is written into it: "
                "prune again"
            )
