"""A device profiled by whole models: what an engine takes for the dense one and for its variants, round after round."""

import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

from unicuco_plugin.costs.device_table import DeviceTable
from unicuco_plugin.costs.timings import DENSE, Point, Whole
from unicuco_plugin.progress import Progress
from unicuco_plugin.quantities import Phase
from unicuco_plugin.strategy import ModelReference
from unicuco_plugin.timing.holding import hold_table
from unicuco_plugin.timing.measurement import LEAST, check_output, check_sizes, check_there, empty_points, go_on
from unicuco_plugin.timing.variants import Variants
from unicuco_plugin.timing.vllm_engine import VllmEngine

__all__ = ["profile_wholes"]

# Runs of each load once a model is loaded, which takes far longer.
_RUNS = 3


def profile_wholes(
    variants: Variants,
    output: Path,
    model: ModelReference,
    engine: VllmEngine,
    *,
    batches: Sequence[int],
    contexts: Sequence[int],
    repeats: int = 3,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> DeviceTable:
    """Time a model's variants in an engine, and write the table after every one.

    Args:
        variants: Of the model.
        output: The table's file.
        model: Name and fingerprint.
        engine: Runs them.
        batches: Sequences that run at once, one or more numbers of them.
        contexts: Tokens of each sequence, one or more numbers; all pairs are timed.
        repeats: Rounds.
        resume: Go on with what ``output`` holds.
        overwrite: Replace it.
        progress: Called after each variant.

    Raises:
        DeviceTableError: If ``output`` may not be written or is of another device, model or load, another process
            measures into it, a size is too large, or the engine cannot run a variant.
    """
    check_output(output, resume=resume, overwrite=overwrite)
    check_sizes(batches, contexts, repeats)
    with hold_table(output):
        check_there(output, resume=resume, overwrite=overwrite)
        return _profile(variants, output, model, engine, (batches, contexts, repeats), resume=resume, progress=progress)


def _profile(
    variants: Variants,
    output: Path,
    model: ModelReference,
    engine: VllmEngine,
    sizes: tuple[Sequence[int], Sequence[int], int],
    *,
    resume: bool,
    progress: Callable[[Progress], None],
) -> DeviceTable:
    batches, contexts, repeats = sizes
    loads = sorted(product({*batches}, {*contexts}))
    steps = list(product(range(repeats), variants.every))
    table = DeviceTable(
        device=engine.describe(variants.dtype),
        model=model,
        modules=dict(variants.modules),
        shapes=variants.shapes,
        stored=variants.stored,
        points=empty_points(variants.shapes, loads, len(variants.stored)),
        done=0,
        total=len(steps),
    )
    if resume and output.exists():
        table = go_on(output, table)
    table.write(output)
    for turn, variant in steps[table.done :]:
        with tempfile.TemporaryDirectory() as folder:
            variant.write(Path(folder), variants.architecture)
            device, times = engine.time(
                folder, table.device.dtype, loads, repeats=_RUNS, dummy=True, own_code=variant.own_code
            )
        table.device.check(device, output)
        found = [Whole(variant=variant.name, **one.model_dump()) for one in times]
        table = table.model_copy(update={"wholes": (*table.wholes, *found), "done": table.done + 1})
        if variant is variants.every[-1]:
            table = table.model_copy(
                update={"points": tuple(_work_out(point, table, variants) for point in table.points)}
            )
        table.write(output)
        progress(Progress(f"round {turn + 1}, {variant.name}", table.done, table.total))
    return table


def _work_out(point: Point, table: DeviceTable, variants: Variants) -> Point:
    """A point with one more sample of everything, from the last round."""
    last = [one for one in table.wholes if (one.batch, one.context) == (point.batch, point.context)]
    phase: Phase = point.phase
    took = {one.variant: getattr(one, phase) for one in last[-len(variants.every) :]}
    each = {variant: (took[DENSE] - took[variant.name]) / variant.count for variant in variants.every if variant.count}
    saved = {(variant.shape, variant.width): ms for variant, ms in each.items() if variant.stored is None}
    stored = {variant.stored: round(ms, 6) for variant, ms in each.items() if variant.stored is not None}
    own = [max(saved[shape, 0], 0.0) for shape in range(len(variants.shapes))]
    times = tuple(
        tuple(
            (*samples, round(full if width == widths[-1] else max(full - saved[shape, width], 0.0), 6))
            for width, samples in zip(widths, row, strict=True)
        )
        for shape, (full, row) in enumerate(zip(own, point.times, strict=True))
        for widths in [variants.shapes[shape].widths]
    )
    rest = max(took[DENSE] - sum(own[shape] for shape in variants.modules.values()), LEAST)
    gained = tuple((*samples, stored[place]) for place, samples in enumerate(point.saved))
    return point.model_copy(update={"times": times, "rest": (*point.rest, round(rest, 6)), "saved": gained})
