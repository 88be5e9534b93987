"""What a device's table is made of: the device, what was timed, times under a load, and checkpoints seen whole."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from unicuco_plugin.errors import DeviceTableError, quoted
from unicuco_plugin.frozen import Frozen
from unicuco_plugin.quantities import Engine, Milliseconds, Phase

__all__ = ["DENSE", "Count", "Device", "Name", "Observation", "Point", "Shape", "Stored", "Whole"]

DENSE = "dense"
"""What the whole model is called among its variants."""

_MOST_MS = 1e9
Samples = tuple[Annotated[float, Field(ge=0.0, le=_MOST_MS)], ...]
Count = Annotated[int, Field(gt=0, le=10**7)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]


class Device(Frozen):
    """Where and how a model runs.

    Attributes:
        name: Of the processor or accelerator.
        kind, threads: As PyTorch says them.
        dtype: Of the weights.
        engine, versions: What runs it.
        eager: Whether kernels run one by one; else the engine compiles or captures them beforehand.
    """

    name: Name
    kind: Name
    threads: Count
    dtype: Name
    engine: Engine = "transformers"
    eager: bool = True
    versions: dict[Name, Name]

    def check(self, now: "Device", path: Path) -> None:
        """Refuse to measure into a table of another device.

        Raises:
            DeviceTableError: If ``now`` is another; the message names the first field that differs.
        """
        for field in type(self).model_fields:
            own, here = getattr(self, field), getattr(now, field)
            if own != here:
                raise DeviceTableError(
                    f"device table {path} was measured with {field} {quoted(own)}, here it is {quoted(here)}: "
                    "measure where and as it was made, or profile this device into another file"
                )


class Shape(Frozen):
    """One kind of module that several blocks may have.

    Attributes:
        kind: A half of a block, or a block that has no halves of its own.
        widths: How many of its parts were left when it was timed, rising; the last is all of them, 0 a module that is
            taken out whole.
    """

    kind: Literal["attention", "mlp", "block"]
    widths: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _check_rising(self) -> Self:
        if list(self.widths) != sorted({*self.widths}) or not self.widths[-1]:
            raise ValueError(f"widths must rise and end with all parts, got {quoted(self.widths)}")
        return self


class Stored(Frozen):
    """One kind of unit, stored in one scheme, that was timed.

    Attributes:
        units: Full names of all units of the kind, as a server packs linears.
        scheme: Its name.
    """

    units: tuple[Name, ...] = Field(min_length=1, max_length=10**5)
    scheme: Name


class Point(Frozen):
    """Times under one load, in milliseconds.

    Attributes:
        phase: ``decode``: one more token of every sequence; ``prefill``: all tokens of them.
        batch, context: Sequences, and the tokens of each.
        rest: Of what belongs to no module in ``times``: a whole forward of the dense model less the sum of those.
        times: Of each width of each shape, samples.
        saved: Of each kind and scheme in ``stored``, samples of what one unit saves; below 0 where it costs.
    """

    phase: Phase
    batch: Count
    context: Count
    rest: tuple[Milliseconds, ...] = ()
    times: tuple[tuple[Samples, ...], ...]
    saved: tuple[tuple[Annotated[float, Field(ge=-_MOST_MS, le=_MOST_MS)], ...], ...] = ()


class Whole(Frozen):
    """A whole model timed under one load, in one round, in milliseconds.

    Attributes:
        variant: The dense model, or what is otherwise in this one.
        batch, context: What was run.
        decode, prefill: What one more token of every sequence took, and their prompts.
    """

    variant: Name
    batch: Count
    context: Count
    decode: Milliseconds
    prefill: Milliseconds


class Observation(Frozen):
    """One exported checkpoint, and the dense model, timed as a whole beside what the table said, in ms.

    Attributes:
        space: Of the strategy, and the form where the space has two (:func:`~unicuco_plugin.costs.untimed.timed_as`).
        phase, batch, context: What was run.
        predicted, measured: Of the checkpoint; the first before corrections.
        dense_predicted, dense_measured: Of the dense model, in the same session.
    """

    space: Name
    phase: Phase
    batch: Count
    context: Count
    predicted: Milliseconds
    measured: Milliseconds
    dense_predicted: Milliseconds
    dense_measured: Milliseconds

    @property
    def ratio(self) -> float:
        """Measured over predicted, each as a share of the dense model's: a slower hour is no slower checkpoint."""
        return self.measured / self.predicted * self.dense_predicted / self.dense_measured
