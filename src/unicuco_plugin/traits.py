"""What the strategies of a space do to a model, said once; every room looks up its part of a space by this."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Flag, auto
from types import MappingProxyType

__all__ = ["SPACES", "Effect", "SpaceTraits", "ask_plugins", "cutting", "silencing", "storing", "traits_of", "zeroing"]


class Effect(Flag):
    """What becomes of a unit that loses something, in the order in which effects are applied to a model.

    A space may have several, joined by ``|``; iterating over them gives each. ``DROP | STORE`` is the only pair that
    is searched and carried out.
    """

    DROP = auto()
    """Units are blocks, and each leaves the model as a whole."""
    SILENCE = auto()
    """Units are halves of blocks: a block leaves when both go, and a half that goes alone no longer adds anything."""
    CUT = auto()
    """Units are attentions and MLPs, which lose head groups and neurons."""
    ZERO = auto()
    """Units are linears or groups of them, some of whose weights become zeros and stay in the checkpoint."""
    STORE = auto()
    """Units are what a server packs into one linear, each of which is stored by a scheme, in fewer bits."""


@dataclass(frozen=True)
class SpaceTraits:
    """What a space's strategies do to a model.

    Attributes:
        name: The space's name, as plugins list it.
        effect: What becomes of a unit, or of one and another; None where it is unknown, for a space that can be
            searched but not applied.
    """

    name: str
    effect: Effect | None = None

    def _has(self, effect: Effect) -> bool:
        return bool((self.effect or Effect(0)) & effect)

    @property
    def whole(self) -> bool:
        """Whether units go whole, so that all shares are 1 and it only matters which units go."""
        return self._has(Effect.DROP | Effect.SILENCE)

    @property
    def halves(self) -> bool:
        """Whether units are halves of blocks."""
        return self._has(Effect.SILENCE)

    @property
    def modular(self) -> bool:
        """Whether units are attentions and MLPs, which a form of checkpoint may lack one by one."""
        return self._has(Effect.SILENCE | Effect.CUT)

    @property
    def cuts(self) -> bool:
        """Whether parts of modules go, so that they have to be ranked."""
        return self._has(Effect.CUT)

    @property
    def payload(self) -> str | None:
        """Name of the payload that strategies need beyond their shares; None where shares say everything."""
        return "parts" if self.cuts else None

    @property
    def zeroes(self) -> bool:
        """Whether weights inside linears become zeros, measured on a level database, made by a pass or from it."""
        return self._has(Effect.ZERO)

    @property
    def stores(self) -> bool:
        """Whether weights are stored in fewer bits: units then have schemes in place of shares, but where they go."""
        return self._has(Effect.STORE)

    @property
    def on_levels(self) -> bool:
        """Whether candidates are put together from a level database."""
        return self.zeroes or self.stores

    @property
    def corrected(self) -> bool:
        """Whether a compensation can correct for what goes: blocks or parts of them, and nothing else."""
        return self.removes and not self.stores

    @property
    def removes(self) -> bool:
        """Whether modules, or parts of them, of the dense model are gone afterwards."""
        return self.whole or self.cuts


SPACES: Mapping[str, SpaceTraits] = MappingProxyType(
    {
        traits.name: traits
        for traits in (
            SpaceTraits("depth", Effect.DROP),
            SpaceTraits("sublayer", Effect.SILENCE),
            SpaceTraits("structured", Effect.CUT),
            SpaceTraits("sparsity", Effect.ZERO),
            SpaceTraits("precision", Effect.STORE),
            SpaceTraits("compound", Effect.DROP | Effect.STORE),
        )
    }
)
"""The built-in spaces, in the order in which they are applied."""

_finders: list[Callable[[str], SpaceTraits | None]] = []


def ask_plugins(finder: Callable[[str], SpaceTraits | None]) -> None:
    """Register who knows other spaces' traits; the package's root does, so that this room need not know plugins."""
    _finders.append(finder)


def traits_of(space: str) -> SpaceTraits:
    """The traits of a space by its name; those of an unknown space have no effect.

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


def silencing(spaces: Iterable[str]) -> bool:
    """Whether one of these spaces removes halves of blocks."""
    return any(traits_of(space).halves for space in spaces)


def zeroing(spaces: Iterable[str]) -> bool:
    """Whether one of these spaces zeroes weights."""
    return any(traits_of(space).zeroes for space in spaces)


def storing(spaces: Iterable[str]) -> bool:
    """Whether one of these spaces stores weights in fewer bits."""
    return any(traits_of(space).stores for space in spaces)
