"""How a recipe is refused: in one line of bounded length, in which nothing untrusted can pass for ours."""

from unicuco_plugin.errors import RecipeError

__all__ = ["refusal", "show"]

# Characters that a value, a file's name and a whole message may take: a message as long as errors.LONGEST has room for
# the rule, and for what to do, beside the other two.
_MOST_OF_VALUE = 60
_MOST_OF_NAME = 100
_MOST = 300


def show(value: object) -> str:
    """Write a value as Python would, without control characters and cut short."""
    try:
        text = ascii(value[: _MOST_OF_VALUE + 1]) if isinstance(value, str) else ascii(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or a list in itself
        text = f"what cannot be written ({type(value).__name__})"
    return text if len(text) <= _MOST_OF_VALUE else f"{text[: _MOST_OF_VALUE - 1]}…"


def refusal(name: str, message: str, line: int | None = None) -> RecipeError:
    """Make the error that refuses a recipe.

    Args:
        name: The recipe's file, or what else messages call it.
        message: Field, rule and value, and what to do.
        line: Where in the file.
    """
    shown = name if len(name) <= _MOST_OF_NAME else f"…{name[1 - _MOST_OF_NAME :]}"
    text = f"{shown}{'' if line is None else f', line {line}'}: {message}"
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return RecipeError(text if len(text) <= _MOST else f"{text[: _MOST - 1]}…")
