"""Every error this package raises on purpose: one small tree, each message naming field, rule and value."""

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import Any

from pydantic import ValidationError

__all__ = [
    "ArchiveError",
    "CalibrationError",
    "CheckpointError",
    "DeviceTableError",
    "EvaluationError",
    "ExportError",
    "JournalError",
    "LevelsError",
    "ModelMismatchError",
    "PluginError",
    "ProfileError",
    "RecipeError",
    "RequestError",
    "StrategyError",
    "UnicucoError",
    "UnknownNameError",
    "UnsupportedModelError",
    "clip",
    "explain",
    "explain_entries",
    "listed",
    "quoted",
    "round_down",
    "round_up",
]

# Characters of a message: two or three lines of a terminal, which leave room for a path of usual length.
LONGEST = 300
# Fields that a message names where a document is wrong throughout: what fits into LONGEST.
_REASONS = 3


class UnicucoError(Exception):
    """Base of all errors that a user can cause and fix; the command line prints them without a traceback."""


class RequestError(UnicucoError, ValueError):
    """A request is malformed, or nothing can meet it; the message says what can."""


class StrategyError(UnicucoError, ValueError):
    """A strategy names units that the model lacks, or values outside [0, 1]."""


class ProfileError(UnicucoError, ValueError):
    """A profile folder is missing, truncated, edited, or written by a newer version."""


class ModelMismatchError(UnicucoError, ValueError):
    """A profile or strategy belongs to a model with another structure or other weights."""


class UnsupportedModelError(UnicucoError, ValueError):
    """A model that cannot be pruned right; the message says why."""


class CalibrationError(UnicucoError, ValueError):
    """Calibration text is missing, unreadable, or too short for the windows asked for."""


class CheckpointError(UnicucoError, ValueError):
    """What should be a checkpoint, or its configuration, cannot be read as one."""


class DeviceTableError(UnicucoError, ValueError):
    """A table of times is missing, unfinished, edited, of another device, or does not reach what is asked of it."""


class EvaluationError(UnicucoError, RuntimeError):
    """A measurement is not finite, or cannot be made: lm-eval is missing, a task is unknown, its data unreadable."""


class JournalError(UnicucoError, ValueError):
    """A training journal is absent, in use, corrupt, or belongs to other arguments."""


class LevelsError(UnicucoError, ValueError):
    """A level database is absent, incomplete, damaged, or for other linears, or its disk is too small."""


class RecipeError(UnicucoError, ValueError):
    """A recipe that the toolkit would accept and then silently not do."""


class ExportError(UnicucoError, RuntimeError):
    """A checkpoint could not be written, or was found wrong when read back."""


class ArchiveError(UnicucoError, ValueError):
    """A packed checkpoint is truncated, edited, or no such archive at all."""


class PluginError(UnicucoError, RuntimeError):
    """A plugin failed, or clashes with another."""


class UnknownNameError(UnicucoError, LookupError):
    """No plugin provides a space, objective, scalarization or peer of that name; the message lists those there are."""


def clip(text: str, most: int = 60, *, middle: bool = False) -> str:
    """Shorten a text that someone else wrote, so that a message stays a line.

    Args:
        text: Any text.
        most: Most characters of the result.
        middle: Whether its middle goes rather than its end: a message ends with what to do.
    """
    if len(text) <= most:
        return text
    end = most // 3 if middle else 0
    return text[: most - 1 - end] + "…" + text[len(text) - end :]


def quoted(value: object, most: int = 60) -> str:
    """Write a value from outside as Python does, in ``most`` characters."""
    if isinstance(value, str | bytes):
        value = value[: most + 1]  # all that is shown; a file may hold 100 MB of it
    try:
        return clip(repr(value), most)
    except (ValueError, RecursionError):  # integers of very many digits, lists in lists in lists
        return f"a very large {type(value).__name__}"


def listed(items: Sequence[str], most: int = 3, *, between: str = ", ", rest: str = ", …") -> str:
    """Name the first few of many: they say enough.

    Args:
        items: Any texts.
        most: How many are named.
        between: Stands between two of them.
        rest: Stands behind the last one named where there are more; ``{}`` in it is how many more.
    """
    left = len(items) - most
    return between.join(items[:most]) + (rest.format(left) if left > 0 else "")


def explain(error: ValidationError) -> str:
    """Say which fields pydantic refused, by which rule and with which value, in one line of at most 300 characters."""
    return explain_entries(error.errors(include_url=False))


def explain_entries(entries: Sequence[Mapping[str, Any]]) -> str:
    """The same of a list of what pydantic found, as its errors have one."""
    reasons = []
    for entry in entries[:_REASONS]:
        where = clip(".".join(str(part) for part in entry["loc"]))
        match entry["type"]:
            case "value_error":  # a validator of ours, whose message names all three already
                reason = entry["msg"].removeprefix("Value error, ")
            case "extra_forbidden":
                reason = f"unknown field {where!r}"
            case "missing":
                reason = f"{where}: {entry['msg']}"
            case _:
                reason = f"{where}: {clip(entry['msg'], 160)}, got {quoted(entry['input'])}".removeprefix(": ")
        reasons.append(reason)
    more = len(entries) - len(reasons)
    return clip("; ".join([*reasons, *([f"and {more} more"] if more else [])]), LONGEST, middle=True)


def round_down(value: float, digits: int = 6) -> str:
    """Write a largest allowed value in a few digits, so that what is written is itself allowed."""
    return f"{Context(prec=digits, rounding=ROUND_FLOOR).create_decimal(repr(value)).normalize():f}"


def round_up(value: float, digits: int = 4) -> str:
    """Write a smallest allowed value in a few digits, so that what is written is itself allowed."""
    return f"{Context(prec=digits, rounding=ROUND_CEILING).create_decimal(repr(value)).normalize():f}"
