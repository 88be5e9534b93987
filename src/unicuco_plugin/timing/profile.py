"""A device profiled for one model: every distinct half of a block timed inside the running model, round after round.

Halves are timed where they run, so that weights come from memory as they do in generation: a module that is run by
itself again and again finds its weights in the processor's cache. Two models take turns: the dense one, and itself with
modules of every width side by side.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

from unicuco_plugin.costs.device_table import DeviceTable, is_device_table
from unicuco_plugin.costs.timings import Point
from unicuco_plugin.errors import DeviceTableError
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.tensors.storage import compute_device
from unicuco_plugin.progress import Progress
from unicuco_plugin.quantities import Phase
from unicuco_plugin.strategy import ModelReference
from unicuco_plugin.timing.holding import check_free, hold_table
from unicuco_plugin.timing.running import STEPS, Generation, Marks, check_folder, describe_device
from unicuco_plugin.timing.shapes import Timed, find_timed, narrowed

__all__ = ["check_output", "check_sizes", "is_begun", "profile_device"]

_PHASES: tuple[Phase, ...] = ("decode", "prefill")
# Milliseconds: all that a clock of nanoseconds can tell from nothing.
_LEAST = 1e-6
# Modules of each width that are timed at each load, at the least.
_SAMPLES = 3
# Rounds, and numbers of sequences or tokens, at the most: a table holds their pairs; and each of those numbers.
_MOST_ROUNDS, _MOST_SIZES, _LARGEST = 1000, 64, 10**7


def check_output(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse an output that would be mixed up or lost, or cannot be written.

    Raises:
        DeviceTableError: If it is something else than a device table, or is one and neither flag is given; or both are;
            or if nothing can be written into its folder; or another process measures into it.
    """
    check_free(output)
    _check_there(output, resume=resume, overwrite=overwrite)


def _check_there(output: Path, *, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise DeviceTableError("resume and overwrite exclude each other: one goes on, the other begins anew")
    check_folder(output)
    if not os.path.lexists(output):
        return
    if not is_device_table(output):
        raise DeviceTableError(f"output {output} is no device table; it will not be replaced: choose another output")
    if not (resume or overwrite):
        raise DeviceTableError(
            f"output {output} is there already; pass --resume to go on with it, --overwrite to begin anew, or choose "
            "another output"
        )


def check_sizes(batches: Sequence[int], contexts: Sequence[int], repeats: int) -> None:
    """Refuse what no table has room for.

    Raises:
        DeviceTableError: If a number is none, or too large, or there are too many.
    """
    for name, sizes in (("batch", batches), ("context", contexts)):
        wrong = [size for size in sizes if not 1 <= size <= _LARGEST]
        if wrong or not 1 <= len(sizes) <= _MOST_SIZES:
            got = wrong[0] if wrong else f"{len(sizes)} numbers"
            raise DeviceTableError(f"{name} must be 1 to {_MOST_SIZES} numbers from 1 to {_LARGEST:,}, got {got}")
    if not 1 <= repeats <= _MOST_ROUNDS:
        raise DeviceTableError(f"repeats must be 1 to {_MOST_ROUNDS}, got {repeats}")


def is_begun(output: Path) -> bool:
    """Whether a file is a table that can be gone on with."""
    try:
        table = DeviceTable.read(output, finished=False)
    except DeviceTableError:
        return False
    return table.done < table.total


@dataclass(frozen=True)
class _Step:
    """One step of a measurement."""

    turn: int
    batch: int
    context: int
    narrow: bool


def profile_device(
    decoder: Decoder,
    output: Path,
    model: ModelReference,
    *,
    batches: Sequence[int],
    contexts: Sequence[int],
    repeats: int = 5,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> DeviceTable:
    """Time a model's halves of blocks where it lies, and write the table after every step.

    Args:
        decoder: The dense model, all of it on its device; as it was afterwards.
        output: The table's file.
        model: Name and fingerprint.
        batches: Sequences that run at once, one or more numbers of them.
        contexts: Tokens of each sequence, one or more numbers; all pairs are timed.
        repeats: Rounds; more where blocks are few.
        resume: Go on with what ``output`` holds.
        overwrite: Replace it.
        progress: Called after each step.

    Raises:
        DeviceTableError: If ``output`` may not be written or is of another device, model or load, another process
            measures into it, a size is too large, or parts of the model wait elsewhere.
    """
    check_output(output, resume=resume, overwrite=overwrite)
    check_sizes(batches, contexts, repeats)
    with hold_table(output):
        _check_there(output, resume=resume, overwrite=overwrite)  # once more: it may have come to be meanwhile
        return _profile(decoder, output, model, (batches, contexts, repeats), resume=resume, progress=progress)


def _profile(
    decoder: Decoder,
    output: Path,
    model: ModelReference,
    sizes: tuple[Sequence[int], Sequence[int], int],
    *,
    resume: bool,
    progress: Callable[[Progress], None],
) -> DeviceTable:
    """Time all that is not there; the output is held."""
    batches, contexts, repeats = sizes
    generation, timed = Generation(decoder.model), find_timed(decoder)
    generation.check(max(contexts))
    turns = max(repeats, timed.turns(_SAMPLES))
    variants = (False, True)[: 1 + bool(timed.parts)]
    steps = [_Step(*one) for one in product(range(turns), sorted({*batches}), sorted({*contexts}), variants)]
    table = _begin(decoder, timed, model, steps)
    if resume and output.exists():
        table = _go_on(output, table)
    table.write(output)  # before anything is timed: after a kill nobody takes an older table for this one
    warm: tuple[int, bool] | None = None
    for step in steps[table.done :]:
        table = _measure(generation, decoder, timed, table, step, cold=warm != (step.batch, step.narrow))
        warm = step.batch, step.narrow
        table.write(output)
        progress(Progress(f"timing batch {step.batch}, context {step.context}", table.done, table.total))
    return table


def _begin(decoder: Decoder, timed: Timed, model: ModelReference, steps: Sequence[_Step]) -> DeviceTable:
    empty = tuple(tuple(() for _ in shape.widths) for shape in timed.shapes)
    loads = sorted({(step.batch, step.context) for step in steps})
    return DeviceTable(
        device=describe_device(compute_device(decoder.model), str(decoder.model.dtype)),
        model=model,
        modules=dict(timed.modules),
        shapes=timed.shapes,
        points=tuple(Point(phase=p, batch=b, context=c, times=empty) for p in _PHASES for b, c in loads),
        done=0,
        total=len(steps),
    )


def _go_on(output: Path, fresh: DeviceTable) -> DeviceTable:
    """What is there, if it is what this run would measure."""
    table = DeviceTable.read(output, finished=False)
    table.device.check(fresh.device, output)
    table.check_model(fresh.model)
    for name in ("batches", "contexts", "total"):
        own, asked = getattr(table, name), getattr(fresh, name)
        if own != asked:
            what = "steps" if name == "total" else name
            raise DeviceTableError(f"device table {output} has {what} {own}, not {asked}: go on with the same options")
    if (table.modules, table.shapes) != (fresh.modules, fresh.shapes):
        raise DeviceTableError(f"device table {output} has other modules than this model: profile it anew")
    return table


def _measure(
    generation: Generation, decoder: Decoder, timed: Timed, table: DeviceTable, step: _Step, *, cold: bool
) -> DeviceTable:
    """The table with one step more."""
    widths = timed.narrow(step.turn) if step.narrow else {}
    full = {name: timed.shapes[shape].widths[-1] for name, shape in timed.modules.items()}
    rest: dict[Phase, list[float]] = {phase: [] for phase in _PHASES}
    halves: dict[tuple[Phase, int, int], list[float]] = {}
    marks = Marks(decoder)

    def heard(phase: Phase, number: int, milliseconds: float) -> None:
        taken = marks.take()
        if number < 0:
            return
        rest[phase].append(max(milliseconds - sum(taken.values()), _LEAST))
        for name, ms in taken.items():
            width = widths.get(name, full[name])
            if bool(widths) == (width != full[name]):
                halves.setdefault((phase, timed.modules[name], width), []).append(ms)

    with narrowed(decoder, timed, widths), marks.watching():
        if cold:
            generation.warm_up(step.batch)
            marks.take()
        generation.run(step.batch, step.context, STEPS, heard)
    points = tuple(_add(point, step, rest, halves, timed) for point in table.points)
    return table.model_copy(update={"points": points, "done": table.done + 1})


def _add(
    point: Point,
    step: _Step,
    rest: dict[Phase, list[float]],
    halves: dict[tuple[Phase, int, int], list[float]],
    timed: Timed,
) -> Point:
    """A point with a sample more of what was timed at it: the median of a step."""
    if (point.batch, point.context) != (step.batch, step.context):
        return point
    times = tuple(
        tuple(
            (*samples, *((round(median(found), 6),) if (found := halves.get((point.phase, shape, width))) else ()))
            for width, samples in zip(one.widths, row, strict=True)
        )
        for shape, (one, row) in enumerate(zip(timed.shapes, point.times, strict=True))
    )
    own = (round(median(rest[point.phase]), 6),) if not step.narrow else ()
    return point.model_copy(update={"times": times, "rest": (*point.rest, *own)})
