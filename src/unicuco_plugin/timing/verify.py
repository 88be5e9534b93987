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
from unicuco_plugin.timing.vllm_engine import VllmEngine

__all__ = ["check_here", "time_checkpoint", "verify_latency"]

_Found = dict[Phase, float]

# Prompts that are timed; as many tokens each as in the table's own measurement.
_REPEATS = 5
# Seconds that another process may take to write into the table.
_LONGEST = 10.0


def check_here(file: Path, load: Load, python: Path | None = None) -> DeviceTable:
    """A table that can be measured into here, and has times of a load.

    Args:
        file: The table's.
        load: What will be run.
        python: Of vLLM's environment, where the table is of vLLM.

    Raises:
        DeviceTableError: If it cannot be read or written, is of another device, or has none.
    """
    table = DeviceTable.read(file)
    check_folder(file)
    table.device.check(_here(table.device, file, python), file)
    table.at("decode", load.batch, load.context)
    return table


def _here(device: Device, file: Path, python: Path | None) -> Device:
    """This machine, as the engine of a table sees it."""
    if device.engine == "vllm":
        return VllmEngine.find(python, eager=device.eager).describe(device.dtype)
    return describe_device(find_device(device.kind, file), device.dtype)


def time_checkpoint(
    folder: Path, device: Device, asked: Load, python: Path | None = None, *, own_code: bool = False
) -> _Found:
    """Time a checkpoint under a load.

    Args:
        folder: The checkpoint.
        device: Of the table.
        asked: The load.
        python: Of vLLM's environment, where the table is of vLLM.
        own_code: Whether vLLM needs the code in the folder, which is ours.

    Returns:
        Milliseconds of one more token of every sequence, and of their prompts: medians.

    Raises:
        DeviceTableError: If the context is too long, or vLLM cannot run it.
        UnsupportedModelError: If it cannot be loaded.
    """
    if device.engine == "vllm":
        return _serve(folder, device, asked, python, own_code=own_code)
    return _time(load(folder, dtype=device.dtype, device=device.kind), asked)


def _time_dense(model: str | Path, revision: str | None, device: Device, asked: Load, python: Path | None) -> _Found:
    if device.engine == "vllm":
        return _serve(model, device, asked, python, revision=revision)
    return _time(load_model(model, revision=revision, dtype=device.dtype, device=device.kind, prunable=False), asked)


def _serve(
    model: str | Path,
    device: Device,
    asked: Load,
    python: Path | None,
    *,
    revision: str | None = None,
    own_code: bool = False,
) -> _Found:
    engine, loads = VllmEngine.find(python, eager=device.eager), [(asked.batch, asked.context)]
    _, [times] = engine.time(model, device.dtype, loads, repeats=_REPEATS, revision=revision, own_code=own_code)
    return {"prefill": times.prefill, "decode": times.decode}


def _time(model: Any, asked: Load) -> _Found:  # noqa: ANN401 - a Transformers model
    generation = Generation(model)
    generation.check(asked.context)
    generation.warm_up(asked.batch)
    runs = [generation.run(asked.batch, asked.context, STEPS) for _ in range(_REPEATS)]
    return {phase: median(ms for run in runs for ms in run[phase]) for phase in runs[0]}


def verify_latency(
    folder: Path,
    strategy: Strategy,
    file: Path,
    dense: str | Path,
    *,
    revision: str | None = None,
    format: str = "",
    python: Path | None = None,
) -> list[Observation]:
    """Time an exported checkpoint, and the dense model before it, and write both into the table for later predictions.

    Args:
        folder: The checkpoint that a strategy made.
        strategy: With the times that were predicted from this very table.
        file: The table's.
        dense: The dense model: a folder, or a name on the hub.
        revision: A branch, tag or commit there.
        format: The checkpoint's form, as the export says it.
        python: Of vLLM's environment, where the table is of vLLM.

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
    table = check_here(file, asked, python)
    _check_source(table, latency, asked, file)
    device = table.device
    before = _time_dense(dense, revision, device, asked, python)
    gc.collect()  # hooks and modules hold each other
    found = time_checkpoint(folder, device, asked, python, own_code=format == "deci")
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
