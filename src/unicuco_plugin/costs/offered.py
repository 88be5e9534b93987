"""What a database of schemes offers a model: its units, ways to store each, and what those cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unicuco_plugin.costs.model import TableCosts
from unicuco_plugin.costs.stored import scheme_costs
from unicuco_plugin.errors import LevelsError, listed
from unicuco_plugin.levels.experts import split_experts
from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.fused_units import fused_units
from unicuco_plugin.schemes import parse_scheme
from unicuco_plugin.spaces.units import find_ignored

__all__ = ["OfferedSchemes", "find_offered", "offered_schemes"]


@dataclass(frozen=True)
class OfferedSchemes:
    """The units of a model that a database has all linears of.

    Attributes:
        units: Unit, as a server packs it → its linears.
        schemes: Unit → names, from most bits to least.
        costs: Of strategies over them.
        ignored: Other units, which were to stay as they are.
        left_out: How many units are not offered a scheme that all their linears are stored in: others are as small,
            and lose less or leave inputs alone.
    """

    units: Mapping[str, tuple[str, ...]]
    schemes: Mapping[str, tuple[str, ...]]
    costs: TableCosts
    ignored: frozenset[str]
    left_out: Mapping[str, int]


def find_offered(decoder: Decoder, levels: SchemeLevels, ignore: Sequence[str] = ()) -> OfferedSchemes:
    """Take what a server packs, as far as the database has all of its linears.

    Args:
        decoder: The dense model; its experts are linears of their own afterwards.
        levels: Its database.
        ignore: Names of units or linears that stay dense.

    Raises:
        LevelsError: If the database has no unit whole, or offers one no scheme.
        StrategyError: If units are ignored that do not exist, or in part.
        UnsupportedModelError: If the family cannot be run without weights.
    """
    packed = {unit.name: unit.linears for unit in fused_units(decoder.model)}
    split_experts(decoder.model)
    whole = {name: linears for name, linears in packed.items() if set(linears) <= levels.shapes.keys()}
    ignored = find_ignored(whole, ignore)
    units = {name: linears for name, linears in whole.items() if name not in ignored}
    if not units:
        raise LevelsError(f"level database {levels.folder} has all linears of none of {len(packed)} units of the model")
    schemes = offered_schemes(levels, units)
    costs = scheme_costs(decoder, units, schemes)
    return OfferedSchemes(units, schemes, costs, ignored, _left_out(levels, units, schemes))


def offered_schemes(levels: SchemeLevels, units: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The schemes worth offering each unit: those of all its linears that lose less than every one of as few bits.

    Losses do not count the rounding of inputs, so they compare schemes with inputs of as many bits only. Of others with
    as many bits of a weight the one that leaves inputs alone is offered.

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
            (_mean_bits(levels, linears, name), -parse_scheme(name).inputs, _loss(levels, linears, name), name)
            for name in _common(levels, linears)
        )
        if not ranked:
            raise LevelsError(
                f"level database {levels.folder} has no scheme that all of {listed(linears)} are stored in, and a "
                "server packs them as one: build it with schemes whose group is chosen, such as W4A16:g32"
            )
        kept: dict[float, str] = {}
        least: dict[int, float] = {}
        for bits, inputs, loss, name in ranked:
            if bits not in kept and loss < least.get(inputs, float("inf")):
                kept[bits], least[inputs] = name, loss
        found[unit] = tuple(reversed(kept.values()))
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
    """See :class:`OfferedSchemes`."""
    counts: dict[str, int] = {}
    for unit, linears in units.items():
        for name in _common(levels, linears):
            if name not in kept[unit]:
                counts[name] = counts.get(name, 0) + 1
    return counts
