"""What a configuration does to a model's units. Each rule is given all of them, and yields what it finds."""

from collections.abc import Callable, Iterator

from unicuco_plugin.serving.finding import Finding, name_some
from unicuco_plugin.serving.layers import Unit
from unicuco_plugin.serving.layout import Layout
from unicuco_plugin.serving.matching import PartlyIgnored, fused_name

__all__ = ["UNIT_RULES"]

_WORD = 32
_MAYBE = "they read one input, so that a server may pack them, though vLLM's models of this kind are not known here"


def _partly_ignored(layout: Layout) -> Iterator[Finding]:
    for unit in layout.units:
        if not _is_partly_ignored(layout, unit):
            continue
        left = [name.rpartition(".")[2] for name in unit.names if layout.written[name] is None]
        what, end = f"of it only {name_some(left)} is in ignore", "ignore all of them or none"
        if _is_packed(unit):
            linears = len(unit.linears)
            message = f"{what}; vLLM packs the {linears} linears of it and refuses: {end}"
            yield Finding("partly_ignored", unit.name, message)
        else:
            yield Finding("partly_ignored", unit.name, f"{what}; {_MAYBE}: {end}", "warning", "note")


def _split_units(layout: Layout) -> Iterator[Finding]:
    for unit in layout.units:
        found = layout.groups(unit)
        if len(found) < 2 or _is_partly_ignored(layout, unit):
            continue
        stored = list(dict.fromkeys(layout.written[name] for name in unit.names))
        served = stored[0] if unit.kind == "experts" else layout.matcher.served(unit.names, unit.kind)
        silent = all(layout.loads_as(group, served) for group in stored)
        schemes = " and ".join(dict.fromkeys(map(layout.say, stored)))
        if not _is_packed(unit):
            message = f"is stored as {schemes}; {_MAYBE}: give them one scheme"
            yield Finding("split_unit", unit.name, message, "warning", "note")
            continue
        what = "experts of a block" if unit.kind == "experts" else f"{len(unit.linears)} linears of it"
        end = (
            f"loads all of them as {layout.say(served)}, so that the others are wrong without a word"
            if silent
            else "fails when it reads their weights"
        )
        yield Finding(
            "split_unit", unit.name,
            f"is stored as {schemes}; vLLM packs the {what}, and {end}: give them one scheme",
            outcome="silent" if silent else "refused",
        )  # fmt: skip


def _is_packed(unit: Unit) -> bool:
    """Whether vLLM is known to keep the linears as one."""
    return unit.kind == "experts" or len(unit.linears) == 1 or fused_name(unit.names) is not None


def _is_partly_ignored(layout: Layout, unit: Unit) -> bool:
    try:
        if unit.kind != "experts":
            layout.matcher.served(unit.names, unit.kind)
    except PartlyIgnored:
        return True
    return False


def _served_otherwise(layout: Layout) -> Iterator[Finding]:
    """What is stored in one way, and looked for in another."""
    for unit in layout.units:
        if len(layout.groups(unit)) > 1 or _is_partly_ignored(layout, unit) or not _is_packed(unit):
            continue
        stored = layout.written[unit.names[0]]
        asked: list[tuple[str, ...]] = [unit.names]
        if unit.kind == "experts":  # vLLM asks for the first alone, linear by linear
            asked = [(name,) for name in unit.names if ".experts.0." in name]
        answers = [layout.matcher.served(names, unit.kind) for names in asked]
        served = next((answer for answer in answers if not layout.same(answer, stored)), stored)
        if layout.same(served, stored):
            continue
        if unit.kind == "head" and served is None:
            yield Finding(
                "head", unit.name,
                f"is stored as {layout.say(stored)} by the target Linear; vLLM's class of heads is not called so, and "
                "it loads 16 bits: add the head to ignore, or name it in targets",
            )  # fmt: skip
            continue
        silent = layout.loads_as(stored, served)
        yield Finding(
            "target_order", unit.name,
            f"is stored as {layout.say(stored)}, and vLLM takes it for {layout.say(served)}: it takes the first target "
            "in the file's order that matches, and asks for the name of the packed linear: give full names as targets",
            outcome="silent" if silent else "refused",
        )  # fmt: skip


def _group_sizes(layout: Layout) -> Iterator[Finding]:
    for unit in layout.units:
        for linear in unit.linears:
            group = layout.matcher.group(layout.written[linear.name])
            size = None if group is None or group.weights is None else group.weights.group_size
            if size is not None and size > 0 and linear.columns % size:
                fits = [other for other in (128, 64, 32, 16) if linear.columns % other == 0]
                take = f"take {' or '.join(map(str, fits[:2]))}" if fits else "take W8A8, or ignore it"
                yield Finding(
                    "group_size", linear.name,
                    f"has {linear.columns} inputs, which groups of {size} do not divide, as vLLM insists: {take}",
                )  # fmt: skip


def _shards(layout: Layout) -> Iterator[Finding]:
    """Parts of a packed linear must end where a block of scales, or a word of zero points, ends."""
    for unit in layout.units:
        group = layout.group(unit)
        weights = None if group is None else group.weights
        if weights is None or len(unit.linears) < 2 or unit.kind == "experts":
            continue
        if weights.strategy == "block" and weights.block_structure:
            step, what = weights.block_structure[0], f"blocks of {weights.block_structure[0]} rows"
            inner = unit.linears[:-1]
        elif not weights.symmetric and weights.type == "int":
            step, what = _WORD, f"zero points of {weights.num_bits} bits in words of {_WORD}"
            inner = unit.linears
        else:
            continue
        scale = 1 if weights.strategy == "block" else weights.num_bits
        for linear in inner:
            if linear.rows * scale % step:
                yield Finding(
                    "shard_size", linear.name,
                    f"has {linear.rows} rows, which do not fill {what}; vLLM packs it behind others and refuses: take "
                    "a symmetric scheme without blocks",
                )  # fmt: skip


UNIT_RULES: tuple[Callable[[Layout], Iterator[Finding]], ...] = (
    _partly_ignored,
    _split_units,
    _served_otherwise,
    _group_sizes,
    _shards,
)
