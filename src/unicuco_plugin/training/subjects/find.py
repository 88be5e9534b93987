"""Which subject a run over a space has, by what the space's strategies do to a model."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from unicuco_plugin.costs.measure import with_serving
from unicuco_plugin.errors import LevelsError, StrategyError, UnknownNameError, quoted
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.spaces.units import GRANULARITIES
from unicuco_plugin.training.subject import ATTENTIONS, HEADS, Ask, Subject, UnitOptions
from unicuco_plugin.training.subjects.depth import block_subject
from unicuco_plugin.training.subjects.precision import stored_subject
from unicuco_plugin.training.subjects.sparsity import linear_subject
from unicuco_plugin.training.subjects.structured import part_subject
from unicuco_plugin.training.subjects.sublayer import half_subject
from unicuco_plugin.traits import Effect, traits_of

__all__ = ["check_units", "find_subject"]

# Who builds what; a new effect adds its subject here. A space without traits is one over blocks.
_SUBJECTS: Mapping[Effect | None, Callable[[Ask], Subject]] = {
    None: block_subject,
    Effect.DROP: block_subject,
    Effect.SILENCE: half_subject,
    Effect.CUT: part_subject,
    Effect.ZERO: linear_subject,
    Effect.STORE: stored_subject,
    Effect.DROP | Effect.STORE: stored_subject,
}
# Fields of units by the spaces that they go with.
_FIELDS = {
    "on_levels": ("the spaces 'sparsity', 'precision' and 'compound'", ("levels", "ignore")),
    "zeroes": ("the space 'sparsity'", ("granularity", "bounds")),
    "cuts": ("the space 'structured'", ("ranking", "compensate", "round_to", "units")),
    "modular": ("the spaces 'sublayer' and 'structured'", ("format",)),
}


def check_units(name: str, units: UnitOptions) -> None:
    """Refuse a space and units that contradict each other; needs no model.

    Raises:
        LevelsError: If a level database is missing or not needed, or the granularity is none.
        StrategyError: If options of other spaces are given, or no neuron may go.
    """
    traits = traits_of(name)
    if units.round_to < 1:
        raise StrategyError(f"round_to must be at least 1 neuron, got {units.round_to}")
    if units.units not in (None, HEADS, ATTENTIONS):
        raise StrategyError(f"units must be {HEADS} or {ATTENTIONS}, got {quoted(units.units)}")
    if units.format not in (None, "deci"):
        raise StrategyError(f"format must be deci, or left out, got {quoted(units.format)}")
    if units.form == "deci" and units.units == HEADS:
        raise StrategyError(
            f"units {HEADS} do not fit the form deci, whose attentions go whole: take {ATTENTIONS}, or leave them out"
        )
    if units.form == "deci" and units.compensate:
        raise StrategyError("the form deci has no room for biases that stand for what goes: take --no-compensate")
    defaults = UnitOptions()
    for trait, (spaces, fields) in _FIELDS.items():
        given = [field for field in fields if getattr(units, field) != getattr(defaults, field)]
        if given and not getattr(traits, trait):
            kind = StrategyError if trait in ("cuts", "modular") else LevelsError
            raise kind(f"{' and '.join(given)} go{'es' if len(given) == 1 else ''} with {spaces}, not with {name!r}")
    if traits.on_levels and units.levels is None:
        raise LevelsError(f"the space {name!r} needs a level database: unicuco levels build, then --levels DIR")
    if units.granularity not in GRANULARITIES:
        raise LevelsError(f"granularity must be one of {', '.join(GRANULARITIES)}, got {units.granularity!r}")


def find_subject(name: str, decoder: Decoder, fingerprint: str, units: UnitOptions) -> Subject:
    """Build the subject of a space.

    Args:
        name: The space's.
        decoder: The dense model.
        fingerprint: Of the model, which a level database must have been built from.
        units: Where weights are zeroed or parts are cut.

    Raises:
        UnsupportedModelError: If the model's blocks do not suit the space.
        LevelsError: If a level database is missing, not needed, or unfinished.
        ModelMismatchError: If it was built from another model.
        StrategyError: If units are ignored or bounded that do not exist.
        UnknownNameError: If no plugin provides the space.
    """
    check_units(name, units)
    make = _SUBJECTS.get(traits_of(name).effect)
    if make is None:
        raise UnknownNameError(
            f"space {quoted(name)} joins effects that nobody can train on: DROP | STORE alone may be"
        )
    subject = make(Ask(name, decoder, fingerprint, units))
    return replace(subject, costs=with_serving(subject.costs, decoder))
