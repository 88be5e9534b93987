"""A device profiled by whole models: what an engine takes for the dense one and for its variants, round after round."""

import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path

from unicuco_plugin.costs.device_table import DeviceTable
from unicuco_plugin.costs.timings import DENSE, Point, Whole
from unicuco_plugin.progress import Progress
from unicuco_plugin.quantities import Phase
from unicuco_plugin.strategy import ModelReference
from unicuco_plugin.timing.measurement import LEAST, Sizes, empty_points, fill_table
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
    sizes: Sizes,
    *,
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
        sizes: What to time.
        resume: Go on with what ``output`` holds.
        overwrite: Replace it.
        progress: Called after each variant.

    Raises:
        DeviceTableError: If ``output`` may not be written or is of another device, model or load, another process
            measures into it, a size is too large, or the engine cannot run a variant.
    """
    steps = list(product(range(sizes.repeats), variants.every))

    def begin() -> DeviceTable:
        return DeviceTable(
            device=engine.describe(variants.dtype),
            model=model,
            modules=dict(variants.modules),
            shapes=variants.shapes,
            stored=variants.stored,
            points=empty_points(variants.shapes, sizes.loads, len(variants.stored)),
            done=0,
            total=len(steps),
        )

    def measure(table: DeviceTable) -> tuple[DeviceTable, str]:
        turn, variant = steps[table.done]
        with tempfile.TemporaryDirectory() as folder:
            variant.write(Path(folder), variants.architecture)
            device, times = engine.time(
                folder, table.device.dtype, sizes.loads, repeats=_RUNS, dummy=True, own_code=variant.own_code
            )
        table.device.check(device, output)
        found = [Whole(variant=variant.name, **one.model_dump()) for one in times]
        table = table.model_copy(update={"wholes": (*table.wholes, *found), "done": table.done + 1})
        if variant is variants.every[-1]:
            points = tuple(_work_out(point, table, variants) for point in table.points)
            table = table.model_copy(update={"points": points})
        return table, f"round {turn + 1}, {variant.name}"

    return fill_table(output, begin, measure, resume=resume, overwrite=overwrite, progress=progress)


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
