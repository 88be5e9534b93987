"""Which group of a configuration a linear belongs to: as compressed-tensors says, and as vLLM says.

They agree where every target is an explicit name. Elsewhere compressed-tensors prefers exact names, then expressions in
alphabetical order, then classes (``compressed_tensors.utils.match``); vLLM takes the first name or expression in the
file's order, asks for the *fused* name first, and for a fused linear takes what the first of its parts has (vLLM 0.32,
``compressed_tensors/utils.py`` and ``quantization/utils/config_utils.py``). Both match expressions from the start of a
name and not to its end.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from unicuco_plugin.models.families.served import FUSED_NAMES, QKV
from unicuco_plugin.serving.quantization import Group, Quantization

__all__ = ["Matcher", "PartlyIgnored", "fused_name", "packed_order", "unmatched"]

_PREFIX = "re:"
_LINEAR = "Linear"
# vLLM's classes of linears all have the word in their names, and its heads do not.
_SERVER_CLASSES = {"linear": "ColumnParallelLinear", "head": "ParallelLMHead", "experts": "RoutedExperts"}
_PACKED_CLASS, _QKV_CLASS = "MergedColumnParallelLinear", "QKVParallelLinear"
_ORDERS = {frozenset(leaves): leaves for leaves in FUSED_NAMES}


class PartlyIgnored(Exception):  # noqa: N818 - what a server finds, handled by the rule of that name
    """Some linears of a unit are ignored and others are not, which vLLM refuses."""


def packed_order(linears: Sequence[str]) -> list[str]:
    """Linears of one module in the order in which vLLM packs them; as they were where that is not known."""
    leaves = {name.rpartition(".")[2]: name for name in linears}
    return [leaves[leaf] for leaf in _ORDERS.get(frozenset(leaves), ())] or list(linears)


def fused_name(linears: Sequence[str]) -> str | None:
    """What vLLM calls linears that it packs; None for one linear, or where the name is not known."""
    parents, leaves = zip(*((name.rpartition(".")[0], name.rpartition(".")[2]) for name in linears), strict=True)
    order = _ORDERS.get(frozenset(leaves)) if len(set(parents)) == 1 else None
    return None if order is None else f"{parents[0]}.{FUSED_NAMES[order]}".removeprefix(".")


@dataclass(frozen=True)
class _Spellings:
    """Targets, or what is ignored, so that a name is looked up in a step for each expression."""

    given: tuple[str, ...]

    @cached_property
    def exact(self) -> dict[str, int]:
        return {text: place for place, text in enumerate(self.given) if not text.startswith(_PREFIX)}

    @cached_property
    def expressions(self) -> list[tuple[int, re.Pattern[str]]]:
        return [
            (place, re.compile(text.removeprefix(_PREFIX)))
            for place, text in enumerate(self.given)
            if text.startswith(_PREFIX)
        ]

    def places(self, name: str) -> list[int]:
        """All that match a name, in the file's order."""
        found = [place for place, pattern in self.expressions if pattern.match(name)]
        return sorted([*found, *([self.exact[name]] if name in self.exact else [])])

    def first(self, name: str, *, contained: bool = False) -> int | None:
        """The first that matches; ``contained`` looks for plain ones inside a class's name, as vLLM does."""
        found = self.places(name)
        if contained:
            found += [place for text, place in self.exact.items() if text.lower() in name.lower()]
        return min(found, default=None)


class Matcher:
    """The groups of one configuration.

    Args:
        quantization: Whose expressions were tried out (:func:`.quantization.parse_quantization` has).
    """

    def __init__(self, quantization: Quantization) -> None:
        groups = quantization.config_groups
        # A target that stands twice means the later group, to both.
        self._groups = {target: name for name, group in groups.items() for target in group.targets}
        self._targets = _Spellings(tuple(self._groups))
        self._ignored = _Spellings(tuple(dict.fromkeys(quantization.ignore)))
        self._names: Mapping[str, Group] = groups

    @property
    def targets(self) -> tuple[str, ...]:
        """All targets, in the file's order."""
        return self._targets.given

    def group(self, name: str | None) -> Group | None:
        """A group by its name."""
        return None if name is None else self._names[name]

    def matching(self, name: str) -> list[str]:
        """The targets that match a name itself rather than a class."""
        return [self.targets[place] for place in self._targets.places(name)]

    def owner(self, target: str) -> str:
        """The group of a target."""
        return self._groups[target]

    def written(self, name: str) -> str | None:
        """The group by which compressed-tensors stores a linear, and Transformers loads it; None for 16 bits.

        Args:
            name: The linear's full name.
        """
        if self._ignored.places(name) or _LINEAR in self._ignored.exact:
            return None
        found = self._targets.places(name)
        if not found:
            return self._groups.get(_LINEAR)
        texts = [self.targets[place] for place in found]
        return self._groups[min(texts, key=lambda text: (_PREFIX in text, text))]

    def served(self, linears: Sequence[str], kind: str = "linear") -> str | None:
        """The group by which vLLM loads a unit; None for 16 bits.

        Args:
            linears: The unit's linears, in the order in which vLLM packs them.
            kind: ``linear``, ``head`` or ``experts``.

        Raises:
            PartlyIgnored: If some linears are ignored and others are not.
        """
        fused, placed = fused_name(linears), _SERVER_CLASSES[kind]
        if kind == "linear" and len(linears) > 1:
            placed = _QKV_CLASS if (fused or "").endswith(f".{QKV}") else _PACKED_CLASS
        if self._is_ignored(linears, fused):
            return None
        whole = linears[0] if len(linears) == 1 else fused
        place = None if whole is None else self._targets.first(whole)
        if place is None and len(linears) > 1:
            places = [self._targets.first(name) for name in linears]
            place = places[0] if None not in places else None
        if place is None:
            place = self._targets.first(placed, contained=True)
        if place is None and kind == "experts" and _LINEAR in self._groups:
            return self._groups[_LINEAR]
        return None if place is None else self._groups[self.targets[place]]

    def _is_ignored(self, linears: Sequence[str], fused: str | None) -> bool:
        if fused is not None and self._ignored.places(fused):
            return True
        ignored = [bool(self._ignored.places(name)) for name in linears]
        if any(ignored) and not all(ignored):
            raise PartlyIgnored
        return all(ignored)


def unmatched(matcher: Matcher, names: Iterable[str]) -> list[str]:
    """Targets that match no name and are no class's."""
    found = {target for name in names for target in matcher.matching(name)}
    return [target for target in matcher.targets if target not in found and ("." in target or _PREFIX in target)]
