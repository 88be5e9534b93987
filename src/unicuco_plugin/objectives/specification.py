"""What an objective is, as plain JSON data: whoever has the same model, text and database builds the same one of it."""

from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from unicuco_plugin.errors import EvaluationError, explain, quoted
from unicuco_plugin.frozen import Frozen
from unicuco_plugin.objectives.kl import Direction
from unicuco_plugin.schemes import Choice
from unicuco_plugin.spaces.space import Space
from unicuco_plugin.strategy import CompensationName

__all__ = ["CompensationSpec", "LevelsSpec", "ObjectiveSpec", "SpaceSpec"]

_Name = Annotated[str, Field(min_length=1, max_length=1000)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
_Count = Annotated[int, Field(ge=0, le=2**60)]


class SpaceSpec(Frozen):
    """A space of strategies: what a plugin builds it from (the hook ``unicuco_make_space`` says what each field is).

    Attributes:
        name: As plugins list it.
        units: Full module names, in the order of the model.
        params: Parameters of each unit.
        bounds: Least and largest share of each; empty where nobody set any.
        parts: Equal parts of each, and how many of them go together; empty where units do not go part by part.
        choices: How each may be stored; empty where weights are stored as they are.
        needed: Groups of indices of units: of each group one has to stay.
        physical: Whether what is removed leaves the checkpoint unit by unit.
    """

    name: _Name
    units: tuple[_Name, ...] = Field(min_length=1)
    params: tuple[_Count, ...]
    bounds: tuple[tuple[float, float], ...] = ()
    parts: tuple[tuple[_Count, _Count], ...] = ()
    choices: tuple[tuple[tuple[_Name, float, _Count], ...], ...] = ()
    needed: tuple[tuple[_Count, ...], ...] = ()
    physical: bool = False

    @model_validator(mode="after")
    def _check_units(self) -> Self:
        count = len(self.units)
        if len(set(self.units)) < count:
            twice = next(name for index, name in enumerate(self.units) if name in self.units[:index])
            raise ValueError(f"units must have names of their own, got {quoted(twice)} twice")
        for field, optional in (("params", False), ("bounds", True), ("parts", True), ("choices", True)):
            found = len(getattr(self, field))
            if found != count and not (optional and found == 0):
                raise ValueError(f"{field} must have one entry for each of {count} units, got {found}")
        if not all(0.0 <= low <= high <= 1.0 for low, high in self.bounds):
            raise ValueError("bounds must be (least, largest) shares in [0, 1]")
        if any(index >= count for group in self.needed for index in group):
            raise ValueError(f"needed must be groups of indices of {count} units, got {quoted(self.needed)}")
        return self

    @classmethod
    def of(
        cls,
        space: Space,
        params: Sequence[int],
        parts: Sequence[tuple[int, int]] = (),
        choices: Sequence[tuple[Choice, ...]] = (),
    ) -> Self:
        """Describe a space that is there.

        Args:
            space: Any.
            params: Parameters of each of its units, exact.
            parts: Equal parts of each and how many of them go together, where it was built from such.
            choices: How each may be stored, where it was built from such.
        """
        return cls(
            name=space.name,
            units=tuple(space.units),
            params=tuple(params),
            bounds=tuple(space.bounds),
            parts=tuple(parts),
            choices=tuple(choices),
            needed=tuple(space.needed),
            physical=space.physical,
        )


class LevelsSpec(Frozen):
    """A level database.

    Attributes:
        folder: Where it is, or a copy of it.
        identity: What tells it from others of the same model, however its folder is called.
    """

    folder: str = Field(min_length=1)
    identity: _Digest


class CompensationSpec(Frozen):
    """What candidates are corrected with.

    Attributes:
        name: Of the method, as plugins list it.
        windows: Content hash of the windows that corrections are solved from.
    """

    name: CompensationName
    windows: _Digest


class ObjectiveSpec(Frozen):
    """Everything that decides what an objective gives, but for the content that it names: weights, tokens, levels.

    A driver keeps it and sends it; who measures builds the objective from it where the model lies
    (``unicuco_plugin.plugins.objective``), and is refused if what lies there is another model, text or database.

    Attributes:
        objective: Its name, as plugins list it.
        model: Fingerprint of the dense model.
        dtype: What the model computes in, such as ``bfloat16``: a fingerprint is the same in all.
        device: The kind of device it computes on, ``cpu`` or ``cuda``: sums are taken in another order on each.
        space: What strategies mean.
        windows: Content hash of the windows (``calibration_hash``); their tokens are given beside this.
        direction: ``forward`` for KL(dense‖pruned), ``reverse`` for KL(pruned‖dense).
        batch_windows: Windows that pass a block together.
        levels: The level database that candidates are stitched from, for spaces that zero weights.
        payload: Digest of the payload that strategies need beyond shares; None where they need none.
        compensation: What candidates are corrected with; None measures them as they are.
    """

    objective: _Name
    model: Annotated[str, Field(pattern=r"^[0-9a-f]{16}\.[0-9a-f]{16}$")]
    dtype: _Name
    device: _Name
    space: SpaceSpec
    windows: _Digest
    direction: Direction = "forward"
    batch_windows: int = Field(16, ge=1)
    levels: LevelsSpec | None = None
    payload: _Digest | None = None
    compensation: CompensationSpec | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data that ``from_dict`` reads."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Read what ``to_dict`` gave, also from JSON.

        Raises:
            EvaluationError: If a field is missing, unknown or out of range; the message names it.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise EvaluationError(f"the specification of an objective is damaged: {explain(error)}") from error
