"""Where the commands print: everything goes through one place, because names in it may be untrusted."""

import click

from unicuco_plugin.escaping import escape_controls

__all__ = ["say"]


def say(text: str, *, err: bool = False) -> None:
    r"""Print text and a newline; control characters are shown as ``\uXXXX``, which in JSON is the same text.

    Args:
        text: One line or several.
        err: Whether on standard error.
    """
    click.echo(escape_controls(text), err=err)
