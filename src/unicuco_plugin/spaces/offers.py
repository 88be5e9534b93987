"""What units are offered in common."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from unicuco_plugin.schemes import DENSE, REMOVED, Choice, Scheme, parse_scheme

__all__ = ["shared"]


def shared(choices: Sequence[Sequence[Choice]]) -> dict[str, list[str]]:
    """Every scheme that more than half of the units are offered, and what each unit has in it; most bits first.

    Where groups differ from unit to unit a scheme is one of some bits, as presets are: ``W4A16``. A unit that lacks it,
    as one that loses nothing in fewer bits does, has its nearest scheme of no more bits, else of more.
    """
    each = [{name: bits for name, bits, _ in row if name not in (DENSE, REMOVED)} for row in choices]
    found: dict[str, tuple[float, list[str]]] = {}
    for name in dict.fromkeys(name for own in each for name in own):
        label = _without_group(name)
        alike = [[other for other in own if _without_group(other) == label] for own in each]
        if max(map(len, alike)) > 1:
            alike = [[name] if name in own else [] for own in each]
        if sum(map(bool, alike)) <= len(each) / 2:
            continue
        one = {other for names in alike for other in names} == {name}
        bits = max(own[names[0]] for own, names in zip(each, alike, strict=True) if names)
        all_have = [names[0] if names else _nearest(own, bits) for own, names in zip(each, alike, strict=True)]
        found[name if one else label] = bits, all_have
    return {title: names for title, (_, names) in sorted(found.items(), key=lambda item: -item[1][0])}


def _nearest(own: Mapping[str, float], bits: float) -> str:
    fewer = [name for name in own if own[name] <= bits]
    return max(fewer, key=own.__getitem__) if fewer else min(own, key=own.__getitem__)


@lru_cache
def _without_group(name: str) -> str:
    scheme = parse_scheme(name)
    if scheme.format != "pack-quantized":
        return name
    return replace(scheme, group=Scheme(scheme.bits).group, chosen=False).name
