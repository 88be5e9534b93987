"""An exported checkpoint timed as a whole, beside what a device's table predicted; the table keeps both."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from unicuco_plugin.costs.device_table import DeviceTable, Observation
from unicuco_plugin.errors import RequestError
from unicuco_plugin.models.loading import load
from unicuco_plugin.quantities import Load, Phase
from unicuco_plugin.strategy import Strategy
from unicuco_plugin.timing.running import STEPS, Generation, describe_device

__all__ = ["Verified", "check_verifiable", "time_checkpoint", "verify_latency"]

# Prompts that are timed; as many tokens each as in the table's own measurement.
_REPEATS = 5


@dataclass(frozen=True)
class Verified:
    """One phase of a checkpoint, in ms: predicted, with all corrections until then, and measured."""

    phase: Phase
    predicted: float
    measured: float


def check_verifiable(strategy: Strategy) -> Load:
    """The load that a strategy's times are for.

    Raises:
        RequestError: If it has none.
    """
    if strategy.latency is None or strategy.request.load is None:
        raise RequestError(
            "verify-latency needs a prediction, got none: ask a profile, with --device-table FILE and --context N"
        )
    return strategy.request.load


def time_checkpoint(folder: Path, table: DeviceTable, where: Path, batch: int, context: int) -> dict[Phase, float]:
    """Time a checkpoint as the table's device and engine run it.

    Args:
        folder: The checkpoint.
        table: Whose device this must be.
        where: Its file, for messages.
        batch: Sequences.
        context: Tokens of each prompt.

    Returns:
        Milliseconds of one more token of every sequence, and of their prompts: medians.

    Raises:
        DeviceTableError: If this is another device, or the context too long.
        UnsupportedModelError: If it cannot be loaded.
    """
    model = load(folder, dtype=table.device.dtype, device=table.device.kind)
    table.device.check(describe_device(model), where)
    generation = Generation(model)
    generation.check(context)
    generation.warm_up(batch)
    runs = [generation.run(batch, context, STEPS) for _ in range(_REPEATS)]
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
    asked, table = check_verifiable(strategy), DeviceTable.read(file)
    measured = time_checkpoint(folder, table, file, asked.batch, asked.context)
    said = {"decode": strategy.latency.decode, "prefill": strategy.latency.prefill} if strategy.latency else {}
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
