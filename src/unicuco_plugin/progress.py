"""How far a long run has got, for display."""

from dataclasses import dataclass

__all__ = ["Progress"]


@dataclass(frozen=True)
class Progress:
    """How far a training, a search, a build of levels or a benchmark has got.

    Attributes:
        stage: What it is doing now.
        done, total: Steps finished, and the most there can be: evaluations, blocks, generations, linears.
        tokens: Evaluation tokens spent so far; 0 where none are counted.
        message: One line to show once.
    """

    stage: str
    done: int
    total: int
    tokens: int = 0
    message: str = ""
