"""What an export was: the checkpoint, what it holds, and what it cost."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unicuco_plugin.modifiers.carriers.achieved import Achieved
from unicuco_plugin.strategy import Strategy

__all__ = ["Export"]


@dataclass(frozen=True)
class Export:
    """A finished checkpoint.

    Attributes:
        path: Its folder.
        model: The pruned model in memory.
        strategies: What was applied, one per space; empty for a recipe without ``SparsityProfileModifier``.
        params: Parameters of the pruned model.
        bytes: Bytes of its weight files.
        seconds: Wall time from loading to the finished folder.
        achieved: What became of a sparsity strategy's plan; None where none was applied.
        divergence_note: Why the strategies' divergences are not the checkpoint's; empty where they are.
        format: The form of a checkpoint with smaller modules: ``compact``, ``deci``, ``plain`` or ``stock``; or empty.
        notes: What else the user should know.
    """

    path: Path
    model: Any
    strategies: tuple[Strategy, ...]
    params: int
    bytes: int
    seconds: float
    achieved: Achieved | None = None
    divergence_note: str = ""
    format: str = ""
    notes: tuple[str, ...] = ()
