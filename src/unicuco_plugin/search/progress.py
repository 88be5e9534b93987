"""Where a training run is, for who watches it."""

from dataclasses import dataclass

__all__ = ["Progress"]


@dataclass(frozen=True)
class Progress:
    """Where a training run is.

    Attributes:
        stage: What it is doing now.
        done, total: Evaluations finished, and the most there can be.
        tokens: Evaluation tokens so far.
        message: One line on the last finished step.
    """

    stage: str
    done: int
    total: int
    tokens: int
    message: str
