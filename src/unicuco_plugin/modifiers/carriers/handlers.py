"""What every space does inside the toolkit's lifecycle, and who does it for each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from llmcompressor.modifiers import Modifier

from unicuco_plugin.errors import RecipeError, quoted
from unicuco_plugin.modifiers.carriers.achieved import Achieved
from unicuco_plugin.modifiers.carriers.removal import RemovalHandler
from unicuco_plugin.modifiers.carriers.sparsity import SparsityHandler
from unicuco_plugin.modifiers.carriers.structured import StructuredHandler

__all__ = ["HANDLERS", "SpaceHandler", "check_spaces"]


class SpaceHandler(Protocol):
    """What one space does at the toolkit's events."""

    achieved: Achieved | None
    """What became of a plan of zeros, after ``finish``; None where there is none."""

    @property
    def removed(self) -> frozenset[str]:
        """Full names of the modules that will be gone at the end."""

    def start(self, modifiers: list[Modifier], place: int, removed: frozenset[str]) -> None:
        """Prepare the model and the recipe when the toolkit initialises; later modifiers are not yet initialised.

        Args:
            modifiers: The running recipe's own list, which may be changed behind ``place``.
            place: Where ``SparsityProfileModifier`` stands in it.
            removed: The modules that the handlers started before this one remove.
        """

    def finish(self) -> None:
        """Make the change for good when the toolkit finalises."""

    def undo(self) -> None:
        """Take back what ``start`` did; calling it again does nothing."""


# How each space is carried out, in the order in which they start; a new space adds its handler here.
HANDLERS: Mapping[str, Callable[..., SpaceHandler]] = {
    "depth": RemovalHandler,
    "sublayer": RemovalHandler,
    "structured": StructuredHandler,
    "sparsity": SparsityHandler,
}
# Each of these counts parts of the dense model.
_ALONE = ("depth", "sublayer", "structured")


def check_spaces(spaces: Sequence[str]) -> None:
    """Refuse strategies that cannot be applied, or not together.

    Raises:
        RecipeError: If a space has no handler, two strategies are of one space, or two remove blocks.
    """
    for space in spaces:
        if space not in HANDLERS:
            raise RecipeError(f"space {quoted(space)} cannot be applied by this version, only {', '.join(HANDLERS)}")
    twice = sorted({space for space in spaces if spaces.count(space) > 1})
    if twice:
        raise RecipeError(f"one strategy per space: {', '.join(twice)} is given {spaces.count(twice[0])} times")
    both = [space for space in _ALONE if space in spaces]
    if len(both) > 1:
        raise RecipeError(f"{' and '.join(both)} both remove blocks of the dense model: give one of them")
