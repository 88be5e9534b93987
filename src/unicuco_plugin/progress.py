"""Where a long run is, for who watches it."""

from dataclasses import dataclass

__all__ = ["Progress"]


@dataclass(frozen=True)
class Progress:
    """Where a training, a search, a build of levels or a benchmark is.

    Attributes:
        stage: What it is doing now.
        done, total: Steps finished, and the most there can be: evaluations, blocks, generations, linears.
        tokens: Evaluation tokens spent so far; 0 where none are.
        message: One line to tell once.
    """

    stage: str
    done: int
    total: int
    tokens: int = 0
    message: str = ""
