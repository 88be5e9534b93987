"""Makes the modifier known to the toolkit, so that a recipe can name it."""

from llmcompressor.modifiers import ModifierFactory

from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier

__all__ = ["register"]


def register() -> None:
    """Register :class:`SparsityProfileModifier` with the toolkit's factory; calling it again does nothing more.

    The name is the class's own, which is what ``recipe.yaml`` is written with.
    """
    ModifierFactory.register(SparsityProfileModifier.__name__, SparsityProfileModifier)
