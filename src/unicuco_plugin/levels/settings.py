"""What decides the content of a level database, and the digits that tell one from another."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator

from unicuco_plugin.errors import LevelsError, explain
from unicuco_plugin.frozen import Frozen

__all__ = ["LADDER", "Inputs", "LevelSettings", "identify_levels"]

# Every tenth, from where pruning is free to where it is ruinous; realised counts lie between neighbours.
LADDER = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Inputs = Literal["dense", "pruned"]

# The longest ladder that a record may speak of: a bound of what is allocated for it.
_MOST_LEVELS = 100


class LevelSettings(Frozen):
    """What decides the content of a level database, beside the model and the calibration windows.

    Attributes:
        sparsities: The ladder, ascending, each in (0, 1); the dense level is not stored.
        damping: Share of the Hessian's mean diagonal added to its diagonal.
        block_size: Columns whose masks are chosen together.
        inputs: What each block is calibrated on: the ``dense`` model's states, or the mean of the states that all
            levels of the blocks before it give, as a pruned model will (``pruned``).
        batch_windows: Windows that pass a block together.
    """

    sparsities: tuple[float, ...] = Field(default=LADDER, max_length=_MOST_LEVELS)
    damping: float = Field(default=1e-2, gt=0, lt=1)
    block_size: int = Field(default=128, ge=1, le=2**20)
    inputs: Inputs = "pruned"
    batch_windows: int = Field(default=8, ge=1, le=2**20)

    @field_validator("sparsities")
    @classmethod
    def _ascend(cls, sparsities: tuple[float, ...]) -> tuple[float, ...]:
        ladder = list(sparsities)
        if not ladder or ladder != sorted(set(ladder)) or not all(0 < sparsity < 1 for sparsity in ladder):
            raise ValueError(f"sparsities must be one or more in (0, 1), each once and ascending, got {ladder}")
        return sparsities

    @classmethod
    def of(cls, **fields: Any) -> Self:  # noqa: ANN401 - what pydantic takes
        """Validate fields.

        Raises:
            LevelsError: If one is out of range or unknown.
        """
        try:
            return cls(**fields)
        except ValidationError as error:
            raise LevelsError(explain(error)) from error


def identify_levels(calibration: str, settings: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that tell the level databases of one model apart.

    Args:
        calibration: Hash of the calibration windows.
        settings: :class:`LevelSettings` as plain JSON data.
    """
    text = json.dumps([calibration, dict(settings)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
