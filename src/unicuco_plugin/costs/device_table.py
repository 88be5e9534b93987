"""What the parts of a model take to run on one device, as they were timed there: one JSON file, whole or refused."""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from unicuco_plugin.costs.timings import DENSE, Device, Name, Observation, Point, Shape, Stored, Whole
from unicuco_plugin.errors import DeviceTableError, ModelMismatchError, clip, explain
from unicuco_plugin.files.draft import write_whole
from unicuco_plugin.frozen import Frozen
from unicuco_plugin.quantities import Phase
from unicuco_plugin.signed import SignedDocument
from unicuco_plugin.strategy import ModelReference

__all__ = ["DeviceTable", "is_device_table"]

_SCHEMA = 1
_LEAST = 1e-6  # ms, of what belongs to no module
_REMEDY = "profile the device again with --overwrite"
_DOCUMENT = SignedDocument("device table", _SCHEMA, DeviceTableError, _REMEDY)


class DeviceTable(Frozen):
    """Times of a model's modules on one device.

    Attributes:
        device: Which.
        model: The dense model.
        modules: Full name of every half, or block without halves → index in ``shapes``.
        shapes: What was timed.
        stored: What was timed beside, stored in schemes.
        points: One for each phase, batch and context.
        wholes: Where an engine was timed as a whole, what the points were worked out from.
        done, total: Steps of the measurement that are finished, and all of them.
        observations: Checkpoints that were timed as a whole; later predictions are corrected by them.
    """

    device: Device
    model: ModelReference
    modules: dict[Name, Annotated[int, Field(ge=0)]] = Field(max_length=10**5)
    shapes: tuple[Shape, ...] = Field(min_length=1, max_length=10**4)
    stored: tuple[Stored, ...] = Field(default=(), max_length=10**4)
    points: tuple[Point, ...] = Field(min_length=1, max_length=10**4)
    wholes: tuple[Whole, ...] = Field(default=(), max_length=10**6)
    done: int = Field(ge=0)
    total: int = Field(gt=0)
    observations: tuple[Observation, ...] = Field(default=(), max_length=10**5)

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        if max(self.modules.values(), default=-1) >= len(self.shapes):
            raise ValueError(f"modules must point into {len(self.shapes)} shapes, got {max(self.modules.values())}")
        for point in self.points:
            if [len(row) for row in point.times] != [len(shape.widths) for shape in self.shapes]:
                raise ValueError("points must have times of every width of every shape")
            if len(point.saved) != len(self.stored):
                raise ValueError("points must have savings of everything in stored")
            every = [point.rest, *point.saved, *(each for row in point.times for each in row)]
            if self.done >= self.total and not all(every):
                raise ValueError("points must have a sample of every time once all is done")
        known = {(p.phase, p.batch, p.context) for p in self.points}
        grid = {(p, b, c) for p in ("decode", "prefill") for b in self.batches for c in self.contexts}
        if known != grid or len(known) < len(self.points):
            raise ValueError("points must be each phase at each batch and context, once")
        return self

    @property
    def batches(self) -> list[int]:
        """Those that were measured, rising."""
        return sorted({point.batch for point in self.points})

    @property
    def contexts(self) -> list[int]:
        """Those that were measured, rising."""
        return sorted({point.context for point in self.points})

    @classmethod
    def read(cls, path: Path, *, finished: bool = True) -> Self:
        """Read a table.

        Args:
            path: Its file.
            finished: Whether one that is still being measured is refused.

        Raises:
            DeviceTableError: If it is missing, edited, damaged, of another schema, or not finished.
        """
        path = path.expanduser()
        try:
            table = cls.model_validate(_DOCUMENT.read(path))
        except ValidationError as error:
            raise DeviceTableError(f"device table {path} is damaged: {explain(error)}") from error
        if finished and table.done < table.total:
            raise DeviceTableError(
                f"device table {path} is not finished, {table.done} of {table.total} steps are: go on with the same "
                "unicuco profile-device and --resume"
            )
        return table

    def write(self, path: Path) -> None:
        """Write it whole or not at all.

        Raises:
            DeviceTableError: If the disk refuses.
        """
        try:
            write_whole(path, _DOCUMENT.dumps(self.model_dump(mode="json")))
        except OSError as error:
            raise DeviceTableError(f"device table {path} cannot be written: {error}") from error

    def check_model(self, model: ModelReference) -> None:
        """Refuse a model of another structure with a ``ModelMismatchError``; weights do not matter."""
        if _structure(self.model) != _structure(model):
            raise ModelMismatchError(
                f"the device table is for {clip(self.model.name)} with structure {_structure(self.model):.40}, not for "
                f"{clip(model.name)} with {_structure(model):.40}: profile the device with that model"
            )

    def reaches(self, batch: int, context: int) -> bool:
        """Whether a load lies within those that were measured."""
        pairs = (batch, self.batches), (context, self.contexts)
        return all(known[0] <= value <= known[-1] for value, known in pairs)

    def at(self, phase: Phase, batch: int, context: int) -> tuple[float, list[list[float]]]:
        """Times under a load, in ms: of the dense model, and by shape and width; between loads they are interpolated.

        Raises:
            DeviceTableError: If the load lies outside of those that were measured.
        """
        corners = [(share, *self._medians[phase, b, c]) for share, b, c in self._corners(batch, context)]
        rest = sum(weight * rest for weight, rest, *_ in corners)
        mixed = [
            [sum(weight * times[shape][width] for weight, _, times, _ in corners) for width in range(len(own.widths))]
            for shape, own in enumerate(self.shapes)
        ]
        return rest + sum(mixed[shape][-1] for shape in self.modules.values()), mixed

    def saved_at(self, phase: Phase, batch: int, context: int) -> dict[tuple[str, str], float]:
        """What a unit saves under a load when it is stored in a scheme, in ms, by both their names.

        Raises:
            DeviceTableError: See :meth:`at`.
        """
        corners = [(share, self._medians[phase, b, c][2]) for share, b, c in self._corners(batch, context)]
        return {
            (unit, kind.scheme): sum(weight * saved[place] for weight, saved in corners)
            for place, kind in enumerate(self.stored)
            for unit in kind.units
        }

    def _corners(self, batch: int, context: int) -> list[tuple[float, int, int]]:
        """The loads around one, each with its weight."""
        for name, value, known in (("batch", batch, self.batches), ("context", context, self.contexts)):
            if not known[0] <= value <= known[-1]:
                raise DeviceTableError(
                    f"{name} must be in {known[0]} to {known[-1]}, where the device table has times, got {value}: "
                    f"profile the device with --{name} {value}, too"
                )
        return [
            (share * part, b, c)
            for share, b in _between(self.batches, batch)
            for part, c in _between(self.contexts, context)
        ]

    def correction(self, space: str, phase: Phase, batch: int, context: int) -> float:
        """By what predictions for a space under one load are multiplied: the geometric mean of observed ratios."""
        asked = space, phase, batch, context
        found = [o.ratio for o in self.observations if (o.space, o.phase, o.batch, o.context) == asked]
        return math.exp(sum(map(math.log, found)) / len(found)) if found else 1.0

    @cached_property
    def _medians(self) -> dict[tuple[str, int, int], tuple[float, list[list[float]], list[float]]]:
        found: dict[tuple[str, int, int], tuple[float, list[list[float]], list[float]]] = {}
        dense = [one for one in self.wholes if one.variant == DENSE]
        for p in self.points:
            times = [[median(each) for each in row] for row in p.times]
            rest, saved = median(p.rest), [median(each) for each in p.saved]
            whole = [getattr(one, p.phase) for one in dense if (one.batch, one.context) == (p.batch, p.context)]
            if whole:  # what was measured, which medians of its parts do not add up to
                rest = max(median(whole) - sum(times[shape][-1] for shape in self.modules.values()), _LEAST)
            found[p.phase, p.batch, p.context] = rest, times, saved
        return found


def is_device_table(path: Path) -> bool:
    """Whether a file is a table of times, whole and unedited."""
    return _DOCUMENT.wrote(path)


def _structure(model: ModelReference) -> str:
    return model.fingerprint.partition(".")[0]


def _between(known: Sequence[int], value: int) -> list[tuple[float, int]]:
    """The neighbours of a value, each with its weight; a value that is known stands alone."""
    if value in known:
        return [(1.0, value)]
    low = max(each for each in known if each < value)
    high = min(each for each in known if each > value)
    share = (value - low) / (high - low)
    return [(1.0 - share, low), (share, high)]
