"""A profile and its strategies in words."""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from unicuco_plugin.escaping import escape_line
from unicuco_plugin.levels.settings import identify_levels
from unicuco_plugin.report.table import format_bytes, format_count, format_ms, format_seconds, format_table
from unicuco_plugin.schemes import DENSE_BITS, parse_scheme
from unicuco_plugin.strategy import Divergence, Strategy

if TYPE_CHECKING:  # it brings torch with it
    from unicuco_plugin.answering import Profile

__all__ = [
    "describe_divergence",
    "describe_profile",
    "describe_strategies",
    "list_schemes",
    "list_units",
    "profile_data",
]

_HEADER = ("units", "sparsity", "params", "size", "divergence", "90 % interval", "known", "source")
_BITS_HEADER = ("units", "bits", *_HEADER[2:])
_MEMORY_HEADER = ("weights", "cache", "buffers", "memory")
_TIME_HEADER = ("decode ms", "speedup", "prefill ms", "speedup")
_NUMBERS = tuple(range(6))
# So many shares fit on one line of a usual terminal; more are summed up.
_LISTED = 6
# The command says where they differ from their preset; JSON has them all.
_NOT_SHOWN = {"settings"}


def describe_strategies(strategies: Sequence[Strategy]) -> str:
    """Tabulate answers, each with its request; for a single one, name its units too."""
    stores = all(strategy.traits.stores for strategy in strategies)
    served = any(strategy.memory for strategy in strategies)
    several = any(strategy.profile for strategy in strategies)
    timed = [strategy.latency for strategy in strategies if strategy.latency]
    shown = ([(_MEMORY_HEADER, _memory)] if served else []) + ([(_TIME_HEADER, _times)] if timed else [])
    header = (*(_BITS_HEADER if stores else _HEADER), *(name for names, _ in shown for name in names))
    rows = [(_request(s), *_row(s), *(cell for _, cells in shown for cell in cells(s))) for s in strategies]
    numbers = (*_NUMBERS, *range(len(_HEADER), len(header)))
    if several:
        header = (*header, "profile")
        rows = [(*row, escape_line(strategy.profile or "-")) for row, strategy in zip(rows, strategies, strict=True)]
    table = format_table(("request", *header), rows, right=[column + 1 for column in numbers])
    if timed:
        how = f"{escape_line(timed[0].device)}, {escape_line(timed[0].dtype)}, by {timed[0].engine}"
        table += f"\n\ntimes predicted for {how}"
    corrected = sorted({strategy.compensation for strategy in strategies if strategy.compensation})
    table += f"\n\ndivergences are with compensation {escape_line(', '.join(corrected))}" if corrected else ""
    if len(strategies) != 1:
        return table
    if stores:
        gone = f"\n\nremoves {escape_line(list_units(strategies[0].shares))}" if strategies[0].shares else ""
        return f"{table}\n\n{_by_scheme(strategies[0].schemes)}{gone}"
    verb = "zeroes" if strategies[0].traits.zeroes else "removes"
    return f"{table}\n\n{verb} {escape_line(list_units(strategies[0].shares))}"


def describe_profile(profile: "Profile") -> str:
    """Say what a profile is for, how it was made, and what it offers at each budget."""
    facts = [
        ("profile", profile.name),
        ("model", f"{profile.model.name} ({profile.model.fingerprint})"),
        ("space", f"{profile.space}, {len(profile.units)} units"),
        *_provenance(profile.provenance),
    ]
    width = max(len(name) for name, _ in facts)
    lines = [escape_line(f"{name:<{width}}  {value}") for name, value in facts]
    front = profile.front()
    if all(strategy.traits.stores for strategy in front):
        gone = any(strategy.shares for strategy in front)
        header = (*_BITS_HEADER, "schemes", *(("removes",) if gone else ()))
        stored = [(*_row(s), list_schemes(s.schemes), *((list_units(s.shares),) if gone else ())) for s in front]
        return "\n".join([*lines, "", format_table(header, stored, right=_NUMBERS)])
    rows = [(*_row(strategy), list_units(strategy.shares)) for strategy in front]
    return "\n".join([*lines, "", format_table((*_HEADER, "removes"), rows, right=_NUMBERS)])


def profile_data(profile: "Profile") -> dict[str, Any]:
    """The same as JSON data."""
    return {
        "name": profile.name,
        "space": profile.space,
        "model": profile.model.model_dump(mode="json"),
        "units": list(profile.units),
        "provenance": dict(profile.provenance),
        "front": [strategy.to_dict() for strategy in profile.front()],
    }


def list_units(units: Mapping[str, float]) -> str:
    """Name units in one line: numbered ones together (``model.layers 3, 11-14``), shares where a part goes.

    Parts of numbered blocks are numbered, too: ``model.layers.*.mlp 3, 11-14``.

    Many shares are summed up as their range.
    """
    whole = [_split(name) for name, share in units.items() if share == 1.0]
    parts = []
    for prefix in dict.fromkeys(prefix for prefix, _ in whole):
        numbers = sorted(number for other, number in whole if other == prefix and number is not None)
        parts.append(f"{prefix} {_runs(numbers)}" if numbers else prefix)
    partial = {name: share for name, share in units.items() if share != 1.0}
    if len(partial) > _LISTED:
        parts.append(f"{len(partial)} units, {min(partial.values()):.3f} to {max(partial.values()):.3f} of each")
    else:
        parts += [f"{name} {share:.4g}" for name, share in partial.items()]
    return "; ".join(parts) or "nothing"


def list_schemes(schemes: Mapping[str, str]) -> str:
    """Count units by scheme in one line, the most bits first: ``30 W4A16:g64, 90 W3A16:g64``."""
    return ", ".join(f"{len(units)} {name}" for name, units in _sorted_by_scheme(schemes).items()) or "all left alone"


def _by_scheme(schemes: Mapping[str, str]) -> str:
    rows = [(name, list_units(dict.fromkeys(units, 1.0))) for name, units in _sorted_by_scheme(schemes).items()]
    return format_table(("scheme", "units"), rows, right=())


def _sorted_by_scheme(schemes: Mapping[str, str]) -> dict[str, list[str]]:
    names = sorted(set(schemes.values()), key=lambda name: (-parse_scheme(name).bits, name))
    return {name: [unit for unit, own in schemes.items() if own == name] for name in names}


def describe_divergence(divergence: Divergence | None) -> str:
    """Whether a divergence was measured, predicted, or carried over from other weights; or nobody looked."""
    if divergence is None:
        return "unknown"
    if divergence.carried_over:
        return "carried over"
    return "measured" if divergence.measured else "predicted"


def _row(strategy: Strategy) -> tuple[str, ...]:
    divergence = strategy.divergence
    low, high = divergence.interval90 if divergence else (0.0, 0.0)
    return (
        str(len(strategy.units)),
        f"{strategy.sparsity:.4f}" if strategy.bits is None else f"{strategy.bits:.4f}",
        format_count(strategy.params),
        format_bytes(strategy.bytes),
        f"{divergence.mean:.4f}" if divergence else "-",
        f"{low:.4f} to {high:.4f}" if divergence else "-",
        describe_divergence(divergence),
        strategy.source,
    )


def _memory(strategy: Strategy) -> tuple[str, ...]:
    memory = strategy.memory
    if memory is None:
        return ("-",) * len(_MEMORY_HEADER)
    return tuple(format_bytes(size) for size in (memory.weights, memory.cache, memory.buffers, memory.total))


def _times(strategy: Strategy) -> tuple[str, ...]:
    found = strategy.latency
    if found is None:
        return ("-",) * len(_TIME_HEADER)
    pairs = (found.decode, found.dense_decode), (found.prefill, found.dense_prefill)
    return tuple(cell for own, dense in pairs for cell in (format_ms(own), f"{dense / own:.3f}"))


def _request(strategy: Strategy) -> str:
    return ", ".join(f"{kind} {_said(value)}" for kind, value in strategy.request.to_dict().items())


def _said(value: object) -> str:
    match value:
        case list() | tuple():
            return ",".join(part if isinstance(part, str) else f"{part:.4g}" for part in value)
        case int() | float():
            return f"{value:,}"
    return str(value)


def _split(name: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(.+?)\.(\d+)(\..+)?", name)
    if match is None:
        return name, None
    return match[1] + (f".*{match[3]}" if match[3] else ""), int(match[2])


def _runs(numbers: Sequence[int]) -> str:
    """Join neighbours: 3, 11, 12, 13 are ``3, 11-13``."""
    runs = []
    for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        runs.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ", ".join(runs)


def _provenance(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    readable = {
        "evaluation_tokens": format_count,
        "evaluation_seconds": format_seconds,
        "seconds": format_seconds,
    }
    facts = []
    for key, value in provenance.items():
        if key in _NOT_SHOWN or value is False or value == "":
            continue
        if key in readable and isinstance(value, int | float):
            shown = readable[key](value)
        elif key == "levels" and isinstance(value, Mapping):
            shown = _levels(value)
        elif key == "coverage" and isinstance(value, int | float):
            shown = f"the units have {value:.1%} of the weights of the blocks"
        elif isinstance(value, Mapping):
            shown = ", ".join(f"{name} {_plain(entry)}" for name, entry in value.items())
        else:
            shown = _plain(value)
        facts.append((key.replace("_", " "), shown))
    return facts


def _levels(header: Mapping[str, Any]) -> str:
    """The level database and the units of a sparsity profile."""
    calibration, settings = header["levels"]
    facts = [f"database {identify_levels(calibration, settings)} ({_plain(settings['inputs'])} inputs)"]
    left_out = header.get("left_out") or {}
    if "schemes" in settings:
        facts.append(f"schemes {_plain(settings['schemes'])}")
        facts += [
            f"{name} not offered to {count} units, where one as small {_why(name)}" for name, count in left_out.items()
        ]
    else:
        facts += [f"levels {_plain(settings['sparsities'])}", f"granularity {header['granularity']}"]
    if header["ignore"]:
        facts.append(f"dense {_plain(header['ignore'])}")
    bounds = {tuple(pair) for pair in header.get("bounds", ())}
    for low, high in sorted(bounds):
        units = "" if len(bounds) == 1 else f" for {sum(tuple(pair) == (low, high) for pair in header['bounds'])} units"
        facts.append(f"shares {low:g} to {high:g}{units}")
    return "; ".join(facts)


def _why(scheme: str) -> str:
    return "leaves inputs alone or loses less" if parse_scheme(scheme).inputs < DENSE_BITS else "loses no more"


def _plain(value: object) -> str:
    return ", ".join(str(entry) for entry in value) if isinstance(value, list | tuple) else str(value)
