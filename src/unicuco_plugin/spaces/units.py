"""Which linears a unit of non-uniform sparsity covers, at each granularity."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from unicuco_plugin.errors import StrategyError, quoted
from unicuco_plugin.patterns import find_bad_pattern

__all__ = [
    "GRANULARITIES",
    "Granularity",
    "find_ignored",
    "group_linears",
    "name_block",
    "name_kind",
    "number_blocks",
    "select_bounds",
]

Granularity = Literal["block", "sublayer", "linear"]
GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
# How much of a pattern a message shows.
_SHOWN = 60


def name_block(name: str) -> str:
    """The block's part of a module's name, up to its first number: ``model.layers.3``."""
    parts = name.split(".")
    number = next((index for index, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[: number + 1])


def name_kind(name: str) -> str:
    """What follows the block's part of a module's name: ``.self_attn``; the same for one kind of module.

    Experts are of one kind, whatever their number: ``.mlp.experts.*.up_proj``.
    """
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name.removeprefix(name_block(name)))


def number_blocks(names: Sequence[str]) -> list[int]:
    """Of each name the number of its block, from 0 in the order in which blocks occur."""
    blocks = [name_block(name) for name in names]
    places = {block: index for index, block in enumerate(dict.fromkeys(blocks))}
    return [places[block] for block in blocks]


def group_linears(sizes: Mapping[str, int], granularity: Granularity, ignore: Sequence[str] = ()) -> dict[str, int]:
    """Name the units and count their weights.

    Args:
        sizes: Weights of every prunable linear by its full name, in the model's order.
        granularity: ``block``; ``sublayer``, the block's children (a linear that is one forms a unit of its own); or
            ``linear``.
        ignore: Units or linears that stay dense, by full name or, after ``re:``, by a regular expression that matches
            a linear's name from its start.

    Returns:
        Unit name → its number of weights, in the model's order.

    Raises:
        StrategyError: If a pattern matches nothing, is no expression or backtracks without end, everything is ignored,
            or a part of a unit is.
    """
    units: dict[str, list[str]] = {}
    for linear in sizes:
        block = name_block(linear)
        child = linear.removeprefix(f"{block}.").partition(".")[0]
        unit = {"block": block, "sublayer": f"{block}.{child}", "linear": linear}[granularity]
        units.setdefault(unit, []).append(linear)
    frozen = {linear for pattern in ignore for linear in _matching("ignore", pattern, sizes)}
    kept = {}
    for unit, members in units.items():
        left = [linear for linear in members if linear not in frozen]
        if left and len(left) < len(members):
            raise StrategyError(
                f"ignore must take whole units at granularity {granularity!r}, got {len(members) - len(left)} of the "
                f"{len(members)} linears of {unit}; use a finer granularity"
            )
        if left:
            kept[unit] = sum(sizes[linear] for linear in left)
    if not kept:
        raise StrategyError(f"ignore must leave a unit to prune, got {', '.join(ignore) or 'a model without linears'}")
    return kept


def find_ignored(units: Mapping[str, Sequence[str]], ignore: Sequence[str]) -> frozenset[str]:
    """The units that stay as they are.

    Args:
        units: Unit → full names of its linears.
        ignore: Names of units or linears, or after ``re:`` regular expressions, as :func:`group_linears` takes them.

    Raises:
        StrategyError: If a pattern matches nothing, is no expression or backtracks without end, or a part of a unit is
            ignored.
    """
    of = {name: unit for unit, linears in units.items() for name in linears}
    hit: set[str] = set()
    for pattern in ignore:
        hit |= set(units[pattern]) if pattern in units else set(_matching("ignore", pattern, of))
    for unit, linears in units.items():
        left = [name for name in linears if name not in hit]
        if 0 < len(left) < len(linears):
            raise StrategyError(f"ignore must take whole units, got a part of {unit}, of which {left[0]} is left")
    return frozenset(of[name] for name in hit)


def select_bounds(
    units: Sequence[str], default: tuple[float, float], special: Mapping[str, tuple[float, float]]
) -> tuple[tuple[float, float], ...]:
    """Give every unit its bounds; of several patterns that match, the last wins.

    Args:
        units: All units.
        default: Least and largest share of a unit that no pattern matches.
        special: Patterns as in ``group_linears``, of unit names, with their bounds.

    Raises:
        StrategyError: If a pattern matches no unit, is no expression or backtracks without end.
    """
    found = dict.fromkeys(units, default)
    for pattern, pair in special.items():
        found |= dict.fromkeys(_matching("bounds (--bounds)", pattern, found), pair)
    return tuple(found.values())


def _matching(field: str, pattern: str, names: Mapping[str, object]) -> list[str]:
    if pattern.startswith("re:"):
        bad = find_bad_pattern([pattern[3:]], list(names))
        if bad is not None:
            raise StrategyError(f"{field} {pattern[:_SHOWN]!r} {bad.reason}")
        expression = re.compile(pattern[3:])
        matching = [name for name in names if expression.match(name)]
    else:
        matching = [name for name in names if name == pattern or name.startswith(f"{pattern}.")]
    if not matching:
        raise StrategyError(
            f"{field} {quoted(pattern)} matches none of {len(names)} names such as {next(iter(names), '')}"
        )
    return matching
