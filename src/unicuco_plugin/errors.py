"""Every error this package raises on purpose: one small tree, each message naming field, rule and value."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Context

from pydantic import ValidationError

__all__ = [
    "ArchiveError",
    "CalibrationError",
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
    "round_down",
    "round_up",
]


class UnicucoError(Exception):
    """Base of all errors that a user can cause and mend; the command line prints them without a traceback."""


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


class EvaluationError(UnicucoError, RuntimeError):
    """Tasks cannot be run: lm-eval is missing, a task is unknown, or its data cannot be read."""


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


def clip(value: object, longest: int = 60) -> str:
    """Show a value that may be a stranger's: its ``repr``, cut off when it is long."""
    # Of a long text, a part is enough, and its repr may be ten times as long.
    text = repr(value[: longest + 1] if isinstance(value, str | bytes | list | tuple) else value)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def explain(error: ValidationError) -> str:
    """Say which fields pydantic refused, by which rule and with which value, in one line."""
    reasons = []
    for entry in error.errors():
        where = ".".join(str(part) for part in entry["loc"])
        match entry["type"]:
            case "value_error":  # a validator of ours, whose message names all three already
                reasons.append(entry["msg"].removeprefix("Value error, "))
            case "extra_forbidden":
                reasons.append(f"unknown field {where!r}")
            case "missing":
                reasons.append(f"{where}: {entry['msg']}")
            case _:
                reasons.append(f"{where}: {entry['msg']}, got {entry['input']!r}".removeprefix(": "))
    return "; ".join(reasons)


def round_down(value: float, digits: int = 6) -> str:
    """Write a largest allowed value in a few digits, so that what is written is itself allowed."""
    return f"{Context(prec=digits, rounding=ROUND_FLOOR).create_decimal(repr(value)).normalize():f}"


def round_up(value: float, digits: int = 4) -> str:
    """Write a smallest allowed value in a few digits, so that what is written is itself allowed."""
    return f"{Context(prec=digits, rounding=ROUND_CEILING).create_decimal(repr(value)).normalize():f}"
