"""A measurement into a table: what may be asked of it, where it goes, and how it goes on."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from unicuco_plugin.costs.device_table import DeviceTable, is_device_table
from unicuco_plugin.costs.timings import Point, Shape
from unicuco_plugin.errors import DeviceTableError
from unicuco_plugin.progress import Progress
from unicuco_plugin.quantities import Phase
from unicuco_plugin.timing.holding import check_free, hold_table
from unicuco_plugin.timing.running import check_folder

__all__ = ["LEAST", "PHASES", "Sizes", "check_output", "empty_points", "fill_table", "is_begun"]

PHASES: tuple[Phase, ...] = ("decode", "prefill")
# Milliseconds: all that a clock of nanoseconds can tell from nothing.
LEAST = 1e-6
# Rounds, and numbers of sequences or tokens, at the most: a table holds their pairs; and each of those numbers.
_MOST_ROUNDS, _MOST_SIZES, _LARGEST = 1000, 64, 10**7


@dataclass(frozen=True)
class Sizes:
    """What a table is measured at.

    Attributes:
        batches: Sequences that run at once, one or more numbers of them.
        contexts: Tokens of each sequence, one or more numbers; all pairs are timed.
        repeats: Rounds.

    Raises:
        DeviceTableError: If a number is none, or too large, or there are too many.
    """

    batches: Sequence[int]
    contexts: Sequence[int]
    repeats: int = 5

    def __post_init__(self) -> None:
        for name, sizes in (("batch", self.batches), ("context", self.contexts)):
            wrong = [size for size in sizes if not 1 <= size <= _LARGEST]
            if wrong or not 1 <= len(sizes) <= _MOST_SIZES:
                got = wrong[0] if wrong else f"{len(sizes)} numbers"
                raise DeviceTableError(f"{name} must be 1 to {_MOST_SIZES} numbers from 1 to {_LARGEST:,}, got {got}")
        if not 1 <= self.repeats <= _MOST_ROUNDS:
            raise DeviceTableError(f"repeats must be 1 to {_MOST_ROUNDS}, got {self.repeats}")

    @property
    def loads(self) -> list[tuple[int, int]]:
        """Every pair of a batch and a context, ascending."""
        return sorted(product({*self.batches}, {*self.contexts}))


def check_output(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse an output that would be mixed up or lost, or cannot be written.

    Raises:
        DeviceTableError: If it is something else than a device table, or is one and neither flag is given; or both are;
            or if nothing can be written into its folder; or another process measures into it.
    """
    check_free(output)
    _check_there(output, resume=resume, overwrite=overwrite)


def _check_there(output: Path, *, resume: bool, overwrite: bool) -> None:
    """The same, whoever holds it."""
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


def fill_table(
    output: Path,
    begin: Callable[[], DeviceTable],
    measure: Callable[[DeviceTable], tuple[DeviceTable, str]],
    *,
    resume: bool,
    overwrite: bool,
    progress: Callable[[Progress], None],
) -> DeviceTable:
    """Measure step by step what a table lacks, and write it after every one; other processes wait outside.

    Args:
        output: The table's file.
        begin: Makes a table with nothing in it.
        measure: Gives a table with one step more, and what that was.
        resume: Go on with what ``output`` holds.
        overwrite: Replace it.
        progress: Called after each step.

    Raises:
        DeviceTableError: See :func:`check_output`; or if ``output`` holds another device, model or load.
    """
    check_output(output, resume=resume, overwrite=overwrite)
    with hold_table(output):
        _check_there(output, resume=resume, overwrite=overwrite)  # once more: it may have come to be meanwhile
        table = begin()
        if resume and output.exists():
            table = _go_on(output, table)
        table.write(output)  # before anything is timed: after a kill nobody takes an older table for this one
        while table.done < table.total:
            table, what = measure(table)
            table.write(output)
            progress(Progress(what, table.done, table.total))
        return table


def is_begun(output: Path) -> bool:
    """Whether a file is a table that can be gone on with."""
    try:
        table = DeviceTable.read(output, finished=False)
    except DeviceTableError:
        return False
    return table.done < table.total


def empty_points(shapes: Sequence[Shape], loads: Sequence[tuple[int, int]], stored: int = 0) -> tuple[Point, ...]:
    """A point for each phase and load, without times of shapes, and of so many kinds of units in schemes."""
    empty = tuple(tuple(() for _ in shape.widths) for shape in shapes)
    saved: tuple[tuple[float, ...], ...] = ((),) * stored
    return tuple(Point(phase=p, batch=b, context=c, times=empty, saved=saved) for p in PHASES for b, c in loads)


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
    if table.stored != fresh.stored:
        own = ", ".join(dict.fromkeys(kind.scheme for kind in table.stored)) or "none"
        raise DeviceTableError(f"device table {output} has schemes {own}: go on with the same --schemes")
    return table
