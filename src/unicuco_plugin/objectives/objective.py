"""What measures the quality of a strategy, and what it is given to do so."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

from unicuco_plugin.objectives.kl import Direction
from unicuco_plugin.payload import Payload
from unicuco_plugin.spaces.space import Space

if TYPE_CHECKING:  # plugins are listed, and requests answered, without waiting for Transformers
    from unicuco_plugin.compensation.corrections import Corrections
    from unicuco_plugin.levels.database import Database
    from unicuco_plugin.models.blocks.decoder import Decoder

__all__ = ["Evaluation", "Objective", "ObjectiveRequest", "Report", "ReportingObjective", "evaluate_reporting"]

Report = Callable[[float], None]
"""Called with how many strategies of a batch are done, a rising number; fractions of a strategy count."""


@dataclass(frozen=True)
class Evaluation:
    """What one candidate cost in quality and in work.

    Attributes:
        value: Mean over the windows; at least 0, lower is better; nats per token for the built-in divergence. Values
            below 1e-4 compare as equal (``objectives/floor.py``): multiply a measure on a smaller scale.
        per_window: The same per window.
        tokens: Evaluation tokens: scored positions.
        seconds: This candidate's equal share of its batch's wall time.
    """

    value: float
    per_window: tuple[float, ...]
    tokens: int
    seconds: float


@dataclass(frozen=True)
class ObjectiveRequest:
    """What an objective is built from, once per fidelity.

    Attributes:
        decoder: The dense model on its device; an objective leaves it as it was after every call.
        space: What the strategies mean.
        windows: ``m x L`` token ids of this fidelity.
        direction: ``forward`` for KL(dense‖pruned), ``reverse`` for KL(pruned‖dense).
        batch_windows: Windows to run together.
        levels: The level database that candidates are put together from, for spaces that zero weights or store them in
            fewer bits.
        payload: What strategies need beyond shares, if their space's traits say so: which parts go first.
        corrections: What dropped blocks are compensated with; None where candidates are measured as they are. An
            objective that does not apply them measures another model than the one that is exported.
    """

    decoder: "Decoder"
    space: Space
    windows: Tensor
    direction: Direction = "forward"
    batch_windows: int = 16
    levels: "Database | None" = None
    payload: Payload | None = None
    corrections: "Corrections | None" = None


class Objective(Protocol):
    """Measures strategies on the windows it was built with."""

    def evaluate(self, X: Tensor) -> list[Evaluation]:
        """Measure ``n x d`` strategies, in order; values are finite and at least 0."""
        ...


@runtime_checkable
class ReportingObjective(Objective, Protocol):
    """An objective that says how far it is within a batch, which on a large model takes minutes.

    Objectives need not have this method; one that has it is asked through it where progress is shown.
    """

    def evaluate_reporting(self, X: Tensor, report: Report) -> list[Evaluation]:
        """Like ``evaluate``, with the same result; calls ``report`` often."""
        ...


def evaluate_reporting(objective: Objective, X: Tensor, report: Report) -> list[Evaluation]:
    """Measure ``n x d`` strategies with an objective that may be a ``ReportingObjective``."""
    if isinstance(objective, ReportingObjective):
        return objective.evaluate_reporting(X, report)
    return objective.evaluate(X)
