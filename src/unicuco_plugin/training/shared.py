"""What runs over one model may share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unicuco_plugin.journal.journal import Journal

__all__ = ["Shared"]


@dataclass(frozen=True)
class Shared:
    """What runs over one model may share.

    Attributes:
        journal: Open, its header naming the model and how it computes (dtype, device).
        spent: Called with the wall seconds of each measurement that was really made.
        model: The dense model, loaded already; every run leaves it as it was. None lets each load its own.
    """

    journal: Journal
    spent: Callable[[float], None] = lambda _: None
    model: Any = None
