"""Which strategies can be applied, and which together."""

from collections.abc import Sequence

from unicuco_plugin.errors import RecipeError, quoted
from unicuco_plugin.modifiers.carriers.handlers import effect_places
from unicuco_plugin.traits import SPACES, traits_of

__all__ = ["check_spaces"]


def check_spaces(spaces: Sequence[str]) -> None:
    """Refuse strategies that cannot be applied, or not together.

    Raises:
        RecipeError: If a space has no handler, two strategies are of one space, or two remove blocks.
    """
    for space in spaces:
        if not effect_places(traits_of(space)):
            raise RecipeError(f"space {quoted(space)} cannot be applied by this version, only {', '.join(SPACES)}")
    twice = sorted({space for space in spaces if spaces.count(space) > 1})
    if twice:
        raise RecipeError(f"one strategy per space: {', '.join(twice)} is given {spaces.count(twice[0])} times")
    # Each of these counts parts of the dense model.
    both = [traits.name for traits in sorted(map(traits_of, spaces), key=effect_places) if traits.removes]
    if len(both) > 1:
        raise RecipeError(f"{' and '.join(both)} both remove blocks of the dense model: give one of them")
    stored = [space for space in spaces if traits_of(space).stores]
    if stored and len(spaces) > 1:
        other = next(space for space in spaces if space != stored[0])
        raise RecipeError(f"{stored[0]} names linears of the dense model, which {other} changes: give one of them")
    zeroed = [space for space in spaces if traits_of(space).zeroes]
    if len(zeroed) > 1:
        raise RecipeError(f"{' and '.join(zeroed)} both zero weights of the same linears: give one of them")
