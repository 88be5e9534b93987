"""What no modifier of a recipe may hold: whatever the toolkit would run or import, and numbers outside their range.

The toolkit evaluates ``update_scheduler: calc(…)``, imports ``observer: file.py:name``, and writes ``report_path``. All
that is refused for fields as a recipe writes them, before the toolkit sees them, and for modifiers that are objects
already.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeAlias

from pydantic import BaseModel

from unicuco_plugin.files.refusal import show
from unicuco_plugin.patterns import find_bad_pattern

__all__ = ["SCHEDULERS", "Fault", "fields_of", "find_fault", "find_pattern_fault"]

Way: TypeAlias = tuple[str | int, ...]

# Those that llm-compressor 0.14 registers. One that it adds is refused until someone has looked at it.
SCHEDULERS = ("linear", "cubic", "polynomial_decay", "polynomial", "multi_step")

# Its fields are checked by itself, and none of them is evaluated or matched.
_OWN = "SparsityProfileModifier"
_SPARSITIES = ("sparsity", "init_sparsity", "final_sparsity")
# compressed-tensors takes a registered name with a colon in it for a Python file and a name in there. Patterns, masks
# and devices are all that a colon is needed for; none of them is a file that Python would load.
_WITH_COLON = re.compile(r"re:.*|\d+:\d+|(?:cpu|cuda|hpu|mps|npu|xpu):\d+", re.DOTALL)
# This one looks its patterns up anywhere in a name, and without ``re:``.
_SEARCHING = "REAPPruningModifier"
# It zeroes one weight more than its share, and there is none.
_NEVER_ALL = "SparseGPTModifier"


@dataclass(frozen=True)
class Fault:
    """What is wrong with a modifier.

    Attributes:
        path: The way to the value: the field's name, and what leads on from there.
        message: The rule and the value, to be read after the field.
    """

    path: Way
    message: str

    def __str__(self) -> str:
        """As messages say it."""
        return f"{'.'.join(map(str, self.path))} {self.message}"


def find_fault(kind: str, given: Mapping[str, Any]) -> Fault | None:
    """Find the first of a modifier's fields that must not reach the toolkit.

    Args:
        kind: The modifier's class, by name.
        given: Its fields, as YAML has them or of an object.
    """
    return next(_faults(kind, given), None)


def _faults(kind: str, given: Mapping[str, Any]) -> Iterator[Fault]:
    for name in given:
        if str(name).endswith("_"):
            yield Fault((str(name),), "is the toolkit's own note and no field; leave it out")
    for path, value in _values(given):
        if isinstance(value, float) and not math.isfinite(value):
            yield Fault(path, f"must be a finite number, got {value}")
    if kind == _OWN:
        return
    if given.get("update_scheduler") is not None and given["update_scheduler"] not in SCHEDULERS:
        allowed = ", ".join(SCHEDULERS)
        yield Fault(("update_scheduler",), f"must be one of {allowed}, got {show(given['update_scheduler'])}")
    if given.get("report_path") is not None:
        file = show(given["report_path"])
        yield Fault(("report_path",), f"must be left out: the toolkit would write over any .json file, got {file}")
    for path, value in _values(given):
        if isinstance(value, str):
            yield from _word_faults(path, value)
    yield from _range_faults(kind, given)


def _word_faults(path: Way, value: str) -> Iterator[Fault]:
    if value.lstrip().startswith("calc("):
        yield Fault(path, f"must not be an expression, which the toolkit would run, got {show(value)}")
    elif ":" in value and not _WITH_COLON.fullmatch(value):
        yield Fault(path, f"must not name a Python file, which the toolkit would run, got {show(value)}")


def _range_faults(kind: str, given: Mapping[str, Any]) -> Iterator[Fault]:
    top = "[0, 1)" if kind == _NEVER_ALL else "[0, 1]"
    for way, share in _shares(given):
        for rest, value in _values(share):
            # A word may still become a number; what pydantic makes of it is looked at again.
            if isinstance(value, int | float) and (isinstance(value, bool) or not _is_share(value, kind)):
                yield Fault(way + rest, f"must be in {top}, got {show(value)}")
    start, end = given.get("start"), given.get("end")
    if isinstance(start, int | float) and isinstance(end, int | float) and not start < end:
        yield Fault(("start",), f"must be less than end, got {show(start)} and {show(end)}")


def _is_share(value: float, kind: str) -> bool:
    return 0 <= value < 1 or (value == 1 and kind != _NEVER_ALL)


def _shares(given: Mapping[str, Any]) -> Iterator[tuple[Way, object]]:
    yield from (((name,), given[name]) for name in _SPARSITIES if given.get(name) is not None)
    options = given.get("scheduler_args")
    steps = options.get("steps") if isinstance(options, Mapping) else None
    for place, step in enumerate(steps if isinstance(steps, list | tuple) else ()):
        if isinstance(step, list | tuple) and len(step) == 2:
            yield ("scheduler_args", "steps", place, 1), step[1]


def _values(value: object, path: Way = ()) -> Iterator[tuple[Way, object]]:
    """Every plain value inside, with the way to it; fields of objects by their names."""
    match value:
        case Mapping():
            for key, entry in value.items():
                yield from _values(entry, (*path, str(key)))
        case list() | tuple() | set() | frozenset():
            for place, entry in enumerate(value):
                yield from _values(entry, (*path, place))
        case BaseModel():
            yield from _values(fields_of(value), path)
        case _ if is_dataclass(value) and not isinstance(value, type):
            yield from _values({field.name: getattr(value, field.name, None) for field in fields(value)}, path)
        case _:
            yield path, value


def fields_of(model: BaseModel) -> dict[str, Any]:
    """The fields of an object that a recipe would have given it; not what the toolkit keeps in some of them."""
    return {name: getattr(model, name) for name in type(model).model_fields if not name.endswith("_")}


def find_pattern_fault(
    given: Sequence[tuple[str, Mapping[str, Any]]], names: Sequence[str] = ()
) -> tuple[int, Fault] | None:
    """Find the first pattern that must not be matched, in modifiers given by kind and fields.

    Returns:
        Which modifier's it is, and the fault.
    """
    matched: dict[str, tuple[int, Way]] = {}
    searched: dict[str, tuple[int, Way]] = {}
    for place, (kind, content) in enumerate(given):
        for path, value in _values(content) if kind != _OWN else ():
            if not isinstance(value, str):
                continue
            if value.startswith("re:"):
                matched.setdefault(value[3:], (place, path))
            if kind == _SEARCHING and path[0] == "ignore":
                searched.setdefault(value, (place, path))
    bad = find_bad_pattern(matched, names, searched=searched)
    if bad is None:
        return None
    place, path = (matched | searched)[bad.pattern]
    return place, Fault(path, f"{bad.reason}, got {show(bad.pattern)}")
