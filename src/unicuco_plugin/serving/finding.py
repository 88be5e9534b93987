"""What a rule has to say of a checkpoint."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from unicuco_plugin.errors import LONGEST, clip, listed

__all__ = ["Finding", "name_some"]

# How many modules a message names.
_NAMED = 2


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or that a user should know.

    Attributes:
        rule: Which rule, by a name that stays.
        where: A field of the configuration, a module or a tensor.
        message: One line of at most 300 characters: the value, whose rule it is, and what to do.
        severity: ``error`` where the server does not load the checkpoint, or loads another model.
        outcome: What becomes of it: ``refused`` with the server's message, ``silent`` where it loads and computes
            something else without a word, ``broken`` where the files contradict the configuration, ``note`` otherwise.
    """

    rule: str
    where: str
    message: str
    severity: Literal["error", "warning"] = "error"
    outcome: Literal["refused", "silent", "broken", "note"] = "refused"

    def __post_init__(self) -> None:
        """Clip what others wrote into the message; its end, what to do, stays."""
        object.__setattr__(self, "message", clip(self.message, LONGEST, middle=True))
        object.__setattr__(self, "where", clip(self.where, 160, middle=True))

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON data."""
        return asdict(self)


def name_some(names: list[str] | tuple[str, ...]) -> str:
    """Name two modules, and count the others."""
    return listed([clip(name, 80, middle=True) for name in names], _NAMED, rest=" and {} more")
