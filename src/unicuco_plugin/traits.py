"""What the strategies of a space do to a model, said once; every room finds its part of a space by it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

__all__ = ["SPACES", "Effect", "SpaceTraits", "ask_plugins", "cutting", "traits_of", "zeroing"]


class Effect(Enum):
    """What becomes of a unit that loses something. In the order in which effects are applied to one model."""

    DROP = "drop"
    """Units are blocks, which leave the model whole."""
    SILENCE = "silence"
    """Units are halves of blocks: a block leaves with both, and a lone half adds nothing any more."""
    CUT = "cut"
    """Units are attentions and MLPs, which lose head groups and neurons."""
    ZERO = "zero"
    """Units are linears or groups of them, some of whose weights become zeros and stay in the checkpoint."""


@dataclass(frozen=True)
class SpaceTraits:
    """What a space's strategies do to a model.

    Attributes:
        name: The space's, as plugins list it.
        effect: What becomes of a unit; None where nobody said, of a space that can be searched and not applied.
    """

    name: str
    effect: Effect | None = None

    @property
    def whole(self) -> bool:
        """Whether units go whole: which ones says everything, and their shares are all 1."""
        return self.effect in {Effect.DROP, Effect.SILENCE}

    @property
    def halves(self) -> bool:
        """Whether units are halves of blocks."""
        return self.effect is Effect.SILENCE

    @property
    def cuts(self) -> bool:
        """Whether parts of modules go, so that somebody has to rank them."""
        return self.effect is Effect.CUT

    @property
    def payload(self) -> str | None:
        """Name of the payload that strategies need beyond their shares; None where shares say everything."""
        return "parts" if self.cuts else None

    @property
    def zeroes(self) -> bool:
        """Whether weights become zeros inside linears: measured on a level database, made by a pass or from one."""
        return self.effect is Effect.ZERO

    @property
    def removes(self) -> bool:
        """Whether modules or parts of them are gone afterwards, counted in the dense model."""
        return self.whole or self.cuts


SPACES: Mapping[str, SpaceTraits] = MappingProxyType(
    {
        traits.name: traits
        for traits in (
            SpaceTraits("depth", Effect.DROP),
            SpaceTraits("sublayer", Effect.SILENCE),
            SpaceTraits("structured", Effect.CUT),
            SpaceTraits("sparsity", Effect.ZERO),
        )
    }
)
"""The built-in spaces, in the order in which they are applied."""

_finders: list[Callable[[str], SpaceTraits | None]] = []


def ask_plugins(finder: Callable[[str], SpaceTraits | None]) -> None:
    """Say who knows the traits of other spaces; the package's root does, so that this room need not know plugins."""
    _finders.append(finder)


def traits_of(space: str) -> SpaceTraits:
    """The traits of a space by its name; those of one that nobody knows say nothing.

    Raises:
        PluginError: If a plugin fails.
    """
    if space in SPACES:
        return SPACES[space]
    found = (finder(space) for finder in _finders)
    return next((traits for traits in found if traits is not None), SpaceTraits(space))


def cutting(spaces: Iterable[str]) -> bool:
    """Whether one of these spaces takes parts out of modules."""
    return any(traits_of(space).cuts for space in spaces)


def zeroing(spaces: Iterable[str]) -> bool:
    """Whether one of these spaces zeroes weights."""
    return any(traits_of(space).zeroes for space in spaces)
