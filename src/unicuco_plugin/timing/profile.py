"""A device profiled for one model: every distinct half of a block timed inside the running model, round after round.

Halves are timed where they run, so that weights come from memory as they do in generation: a module that is run by
itself again and again finds its weights in the processor's cache. Two models take turns: the dense one, and itself with
modules of every width side by side.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import fmean, median

from unicuco_plugin.costs.device_table import DeviceTable
from unicuco_plugin.costs.timings import Point
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.tensors.storage import compute_device
from unicuco_plugin.progress import Progress
from unicuco_plugin.quantities import Phase
from unicuco_plugin.strategy import ModelReference
from unicuco_plugin.timing.measurement import LEAST, PHASES, Sizes, empty_points, fill_table
from unicuco_plugin.timing.running import STEPS, Generation, Marks, describe_device
from unicuco_plugin.timing.shapes import Timed, find_timed, narrowed

__all__ = ["profile_device"]

# Modules of each width that are timed at each load, at the least.
_SAMPLES = 3


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
    sizes: Sizes,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> DeviceTable:
    """Time a model's halves of blocks where it lies, and write the table after every step.

    Args:
        decoder: The dense model, all of it on its device; as it was afterwards.
        output: The table's file.
        model: Name and fingerprint.
        sizes: What to time; there are more rounds where blocks are few.
        resume: Go on with what ``output`` holds.
        overwrite: Replace it.
        progress: Called after each step.

    Raises:
        DeviceTableError: If ``output`` may not be written or is of another device, model or load, another process
            measures into it, a size is too large, or parts of the model wait elsewhere.
    """
    generation, timed = Generation(decoder.model), find_timed(decoder)
    turns = max(sizes.repeats, timed.turns(_SAMPLES))
    variants = (False, True)[: 1 + bool(timed.parts)]
    steps = [_Step(turn, *load, narrow) for turn, load, narrow in product(range(turns), sizes.loads, variants)]
    warm: tuple[int, bool] | None = None

    def begin() -> DeviceTable:
        generation.check(max(sizes.contexts))
        return _begin(decoder, timed, model, sizes.loads, len(steps))

    def measure(table: DeviceTable) -> tuple[DeviceTable, str]:
        nonlocal warm
        step = steps[table.done]
        table = _measure(generation, decoder, timed, table, step, cold=warm != (step.batch, step.narrow))
        warm = step.batch, step.narrow
        return table, f"timing batch {step.batch}, context {step.context}"

    return fill_table(output, begin, measure, resume=resume, overwrite=overwrite, progress=progress)


def _begin(
    decoder: Decoder, timed: Timed, model: ModelReference, loads: Sequence[tuple[int, int]], total: int
) -> DeviceTable:
    return DeviceTable(
        device=describe_device(compute_device(decoder.model), str(decoder.model.dtype)),
        model=model,
        modules=dict(timed.modules),
        shapes=timed.shapes,
        points=empty_points(timed.shapes, loads),
        done=0,
        total=total,
    )


@dataclass(frozen=True)
class _Heard:
    """What passed in the forwards of a step, in ms, by phase.

    Attributes:
        whole: Of each forward.
        rest: What belongs to no module in it.
        taken: Of each module.
    """

    whole: dict[Phase, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    rest: dict[Phase, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    taken: dict[Phase, dict[str, list[float]]] = field(default_factory=lambda: {phase: {} for phase in PHASES})

    def note(self, phase: Phase, milliseconds: float, taken: Mapping[str, float]) -> None:
        """One forward more."""
        self.whole[phase].append(milliseconds)
        self.rest[phase].append(max(milliseconds - sum(taken.values()), LEAST))
        for name, ms in taken.items():
            self.taken[phase].setdefault(name, []).append(ms)

    def medians(self, phase: Phase) -> tuple[float, dict[str, float]]:
        """The rest and each module, so that they add up to a forward.

        What interrupts a forward falls on few of its modules, so medians of modules miss it, and that of the whole does
        not: all of them carry it alike.
        """
        rest, each = median(self.rest[phase]), {name: median(ms) for name, ms in self.taken[phase].items()}
        scale = median(self.whole[phase]) / (rest + sum(each.values()))
        return rest * scale, {name: ms * scale for name, ms in each.items()}


def _measure(
    generation: Generation, decoder: Decoder, timed: Timed, table: DeviceTable, step: _Step, *, cold: bool
) -> DeviceTable:
    """The table with one step more."""
    widths = timed.narrow(step.turn) if step.narrow else {}
    marks, heard = Marks(decoder), _Heard()

    def listen(phase: Phase, number: int, milliseconds: float) -> None:
        taken = marks.take()
        if number >= 0:
            heard.note(phase, milliseconds, taken)

    with narrowed(decoder, timed, widths), marks.watching():
        if cold:
            generation.warm_up(step.batch)
            marks.take()
        generation.run(step.batch, step.context, STEPS, listen)
    points = tuple(_add(point, step, heard, widths, timed) for point in table.points)
    return table.model_copy(update={"points": points, "done": table.done + 1})


def _add(point: Point, step: _Step, heard: _Heard, widths: Mapping[str, int], timed: Timed) -> Point:
    """A point with a sample more of what was timed at it."""
    if (point.batch, point.context) != (step.batch, step.context):
        return point
    rest, each = heard.medians(point.phase)
    found: dict[tuple[int, int], list[float]] = {}
    for name, ms in each.items():
        shape = timed.modules[name]
        full = timed.shapes[shape].widths[-1]
        width = widths.get(name, full)
        if bool(widths) == (width != full):
            found.setdefault((shape, width), []).append(ms)
    times = tuple(
        tuple(
            (*samples, *((round(fmean(alike), 6),) if (alike := found.get((shape, width))) else ()))
            for width, samples in zip(one.widths, row, strict=True)
        )
        for shape, (one, row) in enumerate(zip(timed.shapes, point.times, strict=True))
    )
    own = (round(rest, 6),) if not step.narrow else ()
    return point.model_copy(update={"times": times, "rest": (*point.rest, *own)})
