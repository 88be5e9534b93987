"""Where a modifier stands in the toolkit's session."""

from collections.abc import Sequence

from llmcompressor.core import active_session
from llmcompressor.modifiers import Modifier

from unicuco_plugin.errors import RecipeError

__all__ = ["find_alone", "ran_to_its_end"]


def find_alone(modifiers: Sequence[Modifier], kind: type[Modifier]) -> int:
    """Where the one modifier of a kind stands; two would each count blocks in a model that still has all of them.

    Raises:
        RecipeError: If there is not exactly one.
    """
    places = [place for place, modifier in enumerate(modifiers) if isinstance(modifier, kind)]
    if len(places) != 1:
        raise RecipeError(f"one {kind.__name__} per recipe; give it several profiles with profiles: [...]")
    return places[0]


def ran_to_its_end() -> bool:
    """Whether every modifier has seen the end of its calibration; a reset after a failure finalises them too."""
    lifecycle = active_session().lifecycle
    return lifecycle.initialized_ and all(modifier.ended_ for modifier in lifecycle.recipe.modifiers)
