"""What a server packs into one linear, stored in the schemes of a level database."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from unicuco_plugin.costs.stored import scheme_costs
from unicuco_plugin.errors import LevelsError, listed
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.levels.experts import split_experts
from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.models.blocks.coverage import measure_coverage
from unicuco_plugin.models.fused_units import fused_units
from unicuco_plugin.payload import Payload
from unicuco_plugin.plugins.manager import make_space
from unicuco_plugin.schemes import DENSE_BITS, parse_scheme
from unicuco_plugin.spaces.precision import PrecisionSpace
from unicuco_plugin.spaces.units import find_ignored
from unicuco_plugin.training.additive import additive_starts
from unicuco_plugin.training.subject import Ask, Start, Subject

__all__ = ["offered_schemes", "stored_subject"]

# Fewer mean bits are searched as far as a request may go, but not for their own sake: at two bits little is left.
_LEAST_BITS = 2.75


def stored_subject(ask: Ask) -> Subject:
    """Units are what a server packs, as far as the database has all of their linears.

    Raises:
        LevelsError: If the level database is missing or unfinished, or offers a unit no scheme.
        ModelMismatchError: If it was built from another model.
        StrategyError: If units are ignored that do not exist, or in part.
    """
    decoder, options = ask.decoder, ask.units
    if options.levels is None:
        raise LevelsError(f"the space {ask.name!r} needs a level database: unicuco levels build, then --levels DIR")
    levels = SchemeLevels.open(options.levels)
    levels.check_model(ask.fingerprint)
    levels.verify()
    packed = {unit.name: unit.linears for unit in fused_units(decoder.model)}
    split_experts(decoder.model)
    whole = {name: linears for name, linears in packed.items() if set(linears) <= levels.shapes.keys()}
    ignored = find_ignored(whole, options.ignore)
    units = {name: linears for name, linears in whole.items() if name not in ignored}
    if not units:
        raise LevelsError(f"level database {levels.folder} has all linears of none of {len(packed)} units of the model")
    schemes = offered_schemes(levels, units)
    costs = scheme_costs(decoder, units, schemes)
    space = make_space(ask.name, costs.units, costs.table.unit_params, choices=costs.table.choices)
    header = {
        "levels": [levels.record.calibration.hash, levels.record.settings.model_dump(mode="json")],
        "ignore": list(options.ignore),
        "left_out": _left_out(levels, units, schemes),
    }

    def start(journal: Journal, windows: Tensor, _payload: Payload | None) -> Start:
        if not isinstance(space, PrecisionSpace):  # a plugin may have its own
            return Start()
        return additive_starts(decoder, space, windows, journal, levels=levels, units=units)

    coverage = sum(costs.table.unit_params) / measure_coverage(decoder).blocks
    focus = 1.0 - _LEAST_BITS / DENSE_BITS
    return Subject(space, costs, header, levels, None, start, coverage=coverage, focus=focus)


def offered_schemes(levels: SchemeLevels, units: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The schemes worth offering each unit: those of all its linears that lose less than every one of as few bits.

    Args:
        levels: The database.
        units: Unit → its linears.

    Returns:
        Unit → names, from most bits to least.

    Raises:
        LevelsError: If the linears of a unit have no scheme in common.
    """
    found = {}
    for unit, linears in units.items():
        ranked = sorted(
            (_mean_bits(levels, linears, name), _loss(levels, linears, name), name) for name in _common(levels, linears)
        )
        if not ranked:
            raise LevelsError(
                f"level database {levels.folder} has no scheme that all of {listed(linears)} are stored in, and a "
                "server packs them as one: build it with schemes whose group is chosen, such as W4A16:g32"
            )
        kept: list[str] = []
        least = float("inf")
        for _, loss, name in ranked:
            if loss < least:
                kept.append(name)
                least = loss
        found[unit] = tuple(reversed(kept))
    return found


def _common(levels: SchemeLevels, linears: Sequence[str]) -> list[str]:
    each = [[scheme.name for scheme in levels.offered(linear)] for linear in linears]
    return [name for name in each[0] if all(name in names for names in each)]


def _mean_bits(levels: SchemeLevels, linears: Sequence[str], scheme: str) -> float:
    shapes = [levels.shapes[linear] for linear in linears]
    used = parse_scheme(scheme)
    bits = sum(rows * columns * used.bits_per_weight(columns) for rows, columns in shapes)
    return bits / sum(rows * columns for rows, columns in shapes)


def _loss(levels: SchemeLevels, linears: Sequence[str], scheme: str) -> float:
    return sum(levels.loss(linear, scheme) for linear in linears)


def _left_out(
    levels: SchemeLevels, units: Mapping[str, Sequence[str]], kept: Mapping[str, Sequence[str]]
) -> dict[str, int]:
    """How many units are not offered a scheme that all their linears are stored in: others are as small, and better."""
    counts: dict[str, int] = {}
    for unit, linears in units.items():
        for name in _common(levels, linears):
            if name not in kept[unit]:
                counts[name] = counts.get(name, 0) + 1
    return counts
