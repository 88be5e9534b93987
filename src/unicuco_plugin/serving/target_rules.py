"""Targets that say something else than was meant, though both tools understand them alike. Each yields warnings."""

import re
from collections.abc import Callable, Iterator

from unicuco_plugin.errors import quoted
from unicuco_plugin.serving.finding import Finding, name_some
from unicuco_plugin.serving.layout import Layout
from unicuco_plugin.serving.matching import unmatched

__all__ = ["TARGET_RULES"]

# A number in a name, and what makes an expression speak of any number of digits.
_NUMBER, _ANY_DIGITS = re.compile(r"(?<=\.)(\d+)(?=\.)"), re.compile(r"(?:\\d|\[0-9\])(?:[+*]|\{\d)")
# Digits put behind a number to see whether an expression stops at it.
_LONGER = ("00", "37", "99")


def _unmatched(layout: Layout) -> Iterator[Finding]:
    for target in unmatched(layout.matcher, layout.written):
        yield Finding(
            "no_match", f"targets: {quoted(target)}",
            "matches no linear of the model; mend or remove it", "warning", "note",
        )  # fmt: skip


def _several_targets(layout: Layout) -> Iterator[Finding]:
    """Names on which targets of several schemes fall, even where both tools agree on one of them."""
    seen: set[tuple[str, ...]] = set()
    for name, own in layout.written.items():
        targets = layout.matcher.matching(name)
        rivals = tuple(target for target in targets if not layout.same(layout.matcher.owner(target), own))
        if own is None or not rivals or rivals in seen:
            continue
        seen.add(rivals)
        yield Finding(
            "ambiguous", name,
            f"is matched by {quoted(rivals[0])} too, which stands for {layout.say(layout.matcher.owner(rivals[0]))}; "
            f"it is stored as {layout.say(own)}: give full names as targets",
            "warning", "note",
        )  # fmt: skip


def _prefixes(layout: Layout) -> Iterator[Finding]:
    """Expressions that stop inside a number: ``layers.1`` means block 1 and hits block 10."""
    spelled = [*layout.matcher.targets, *layout.quantization.ignore]
    for text in dict.fromkeys(spelled):
        if not text.startswith("re:") or _ANY_DIGITS.search(text):
            continue
        pattern = re.compile(text.removeprefix("re:"))
        matched = [name for name in layout.written if pattern.match(name)]
        swept = [name for name in matched if _is_swept(pattern, name, matched)]
        if swept:
            yield Finding(
                "prefix", quoted(text, 120),
                f"also matches {name_some(swept)}: expressions are matched from the start, and this one goes on past "
                r"the number: write \. behind it (layers\.1\.)", "warning", "note",
            )  # fmt: skip


def _is_swept(pattern: re.Pattern[str], name: str, matched: list[str]) -> bool:
    """Whether a name is matched because one with fewer digits in a number is, whatever digits follow."""
    for found in _NUMBER.finditer(name):
        start, end = found.span()
        for cut in range(start + 1, end):
            shorter = name[:cut] + name[end:]
            longer = [name[:cut] + digits + name[end:] for digits in _LONGER]
            others = [name[:start] + digits + name[end:] for digits in _others(name[start:cut])]
            if shorter in matched and all(map(pattern.match, longer)) and not all(map(pattern.match, others)):
                return True
    return False


def _others(number: str) -> list[str]:
    """Numbers of one digit more or less that do not begin as this one does."""
    return [digit * 4 for digit in "123456789" if digit != number[0]]


TARGET_RULES: tuple[Callable[[Layout], Iterator[Finding]], ...] = (_unmatched, _several_targets, _prefixes)
