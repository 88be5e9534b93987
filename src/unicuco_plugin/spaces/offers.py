"""What units are offered in common."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from unicuco_plugin.schemes import DENSE, Choice, Scheme, parse_scheme

__all__ = ["shared"]


def shared(choices: Sequence[Sequence[Choice]]) -> Iterator[tuple[str, list[str]]]:
    """Every scheme that all units are offered, and what each unit calls it.

    Where groups differ from unit to unit a scheme is one of some bits, as presets are: ``W4A16``.
    """
    each = [{name: _without_group(name) for name, *_ in row if name != DENSE} for row in choices]
    for name, label in each[0].items():
        if all(name in names for names in each):
            yield name, [name] * len(each)
        elif all(list(names.values()).count(label) == 1 for names in each):
            yield label, [next(own for own, of in names.items() if of == label) for names in each]


def _without_group(name: str) -> str:
    scheme = parse_scheme(name)
    if scheme.format != "pack-quantized":
        return name
    return replace(scheme, group=Scheme(scheme.bits).group, chosen=False).name
