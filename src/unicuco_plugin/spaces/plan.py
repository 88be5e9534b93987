"""Plans of strategies: how many weights of each linear are zeroed, in whole weights, and which scheme stores it."""

from collections.abc import Iterable, Mapping
from fractions import Fraction

from unicuco_plugin.errors import StrategyError, listed, quoted

__all__ = ["cover", "plan_counts", "plan_schemes"]


def plan_counts(units: Mapping[str, float], sizes: Mapping[str, int], total: int | None = None) -> dict[str, int]:
    r"""Turn shares of units into counts of weights whose sum is right to one weight.

    A unit covers the linears whose full name is its own or begins with it and a dot. Linear ``l`` of ``n_l`` weights
    in a unit of share ``s`` aims at ``t_l = s n_l``. It gets ``floor(t_l)``, and one weight more where
    ``t_l - floor(t_l)`` is among the largest, such that

        ``sum_l count_l = round(sum_l t_l)``.

    Ties go to the earlier linear. The arithmetic is exact (fractions), so every machine plans the same.

    Args:
        units: Unit name → share of its weights to zero, in (0, 1].
        sizes: Every prunable linear's full name → its number of weights, in the model's order.
        total: The sum to meet instead of ``round(sum_l t_l)``, at most one weight for each linear away from it.

    Returns:
        Covered linear → its count in [0, n_l], each within one weight of ``t_l``, in the order of ``sizes``. Linears
        that no unit covers are not listed.

    Raises:
        StrategyError: If a share is not in (0, 1], a unit covers no linear, two units cover the same one, or ``total``
            cannot be met.

    Source:
        The method of largest remainders (Hamilton); derived here.
    """
    shares = _cover(units, sizes)
    targets = {name: Fraction(share) * sizes[name] for name, share in shares.items()}
    counts = {name: int(target) for name, target in targets.items()}
    wanted = round(sum(targets.values())) if total is None else total
    missing = wanted - sum(counts.values())
    open_ones = [name for name in counts if counts[name] < sizes[name]]
    if not 0 <= missing <= len(open_ones):
        least = sum(counts.values())
        raise StrategyError(f"total must be in [{least:,}, {least + len(open_ones):,}] for these units, got {wanted:,}")
    # sorted is stable: equal remainders keep the model's order.
    for name in sorted(open_ones, key=lambda name: counts[name] - targets[name])[:missing]:
        counts[name] += 1
    return counts


def plan_schemes(units: Mapping[str, str], linears: Iterable[str]) -> dict[str, str]:
    """Give every linear its unit's scheme.

    Args:
        units: Unit → scheme; see :func:`cover`.
        linears: Full names, in the model's order.

    Raises:
        StrategyError: If a unit covers no linear, or two cover the same one.
    """
    names = list(linears)
    found: dict[str, str] = {}
    for unit, scheme in units.items():
        members = cover(unit, names)
        again = next((name for name in members if name in found), None)
        if not members or again is not None:
            raise StrategyError(
                f"units must cover linears of the database, each once; {quoted(unit)} covers {again or 'none'}"
                f"{' again' if again else ''}"
            )
        found |= dict.fromkeys(members, scheme)
    return {name: found[name] for name in names if name in found}


def cover(unit: str, linears: Iterable[str]) -> tuple[str, ...]:
    """The linears of what a server packs, by the names that :mod:`unicuco_plugin.models.fused_units` gives.

    Args:
        unit: A linear's full name; a module's with its linears' own names joined by ``+`` behind a dot; or a module's,
            with all linears that it holds.
        linears: Full names.
    """
    parent, _, leaves = unit.rpartition(".")
    named = {f"{parent}.{leaf}".removeprefix(".") for leaf in leaves.split("+")}
    return tuple(name for name in linears if name in named or name.startswith(f"{unit}."))


def _cover(units: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, float]:
    """Share of every covered linear, in the order of ``sizes``."""
    for unit, share in units.items():
        if not 0.0 < share <= 1.0:
            raise StrategyError(f"units[{quoted(unit)}] must be in (0, 1], got {share}")
    found: dict[str, float] = {}
    used: set[str] = set()
    for name in sizes:
        parts = name.split(".")
        prefixes = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        covering = [prefix for prefix in prefixes if prefix in units]
        if len(covering) > 1:
            raise StrategyError(f"units {covering[0]} and {covering[1]} both cover {name}; give each linear one unit")
        if covering:
            found[name] = units[covering[0]]
            used.add(covering[0])
    unknown = [unit for unit in units if unit not in used]
    if unknown:
        raise StrategyError(f"units must cover prunable linears of the model; {listed(unknown)} cover none")
    return found
