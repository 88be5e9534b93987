"""What a block returns: its states alone, or first of several."""

from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from unicuco_plugin.errors import UnsupportedModelError

__all__ = ["BlockOutput"]


@dataclass(frozen=True)
class BlockOutput:
    """The form of what a block returned.

    Attributes:
        kind: ``tuple`` or ``list``; None for the states alone.
        length: How many values; 1 for the states alone.
    """

    kind: type[tuple[Any, ...]] | type[list[Any]] | None
    length: int = 1

    @classmethod
    def read(cls, output: object, name: str) -> Self:
        """See what form an output has.

        Args:
            output: What a block returned.
            name: Of the block, for the message.

        Raises:
            UnsupportedModelError: If it is neither the states nor a tuple or list that begins with them.
        """
        if isinstance(output, Tensor):
            return cls(None)
        if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
            return cls(list if isinstance(output, list) else tuple, len(output))
        raise UnsupportedModelError(
            f"{name}: expected it to return states, or a tuple that begins with them, got {type(output).__name__}"
        )

    def states(self, output: Any) -> Tensor:  # noqa: ANN401 - whatever the family's blocks return
        """The states in an output of this form."""
        states: Tensor = output if self.kind is None else output[0]
        return states

    def of(self, states: Tensor) -> Any:  # noqa: ANN401
        """An output of this form: the states, and nothing at all the other places."""
        return states if self.kind is None else self.kind([states, *[None] * (self.length - 1)])
