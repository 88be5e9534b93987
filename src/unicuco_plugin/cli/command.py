"""The kind of command that takes several files after one option, and options by their old names."""

from collections.abc import Mapping
from typing import Any

import click

from unicuco_plugin.cli.output import say

__all__ = ["ARGUMENTS", "ManyFilesCommand"]

# Where the arguments are kept as they were typed, for a profile's provenance.
ARGUMENTS = "unicuco.arguments"


class ManyFilesCommand(click.Command):
    """Takes ``--calibration a.txt b.txt`` as well as ``--calibration a.txt --calibration b.txt``.

    Args:
        renamed: Old spellings of options and what they are called now; an old one still works and says so on stderr.
    """

    def __init__(self, *args: Any, renamed: Mapping[str, str] | None = None, **fields: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **fields)
        self._renamed = renamed or {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the option before each further file, which is what click understands."""
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, _repeat("--calibration", _rename(self._renamed, args)))


def _rename(renamed: Mapping[str, str], args: list[str]) -> list[str]:
    end = args.index("--") if "--" in args else len(args)
    spelled = []
    for arg in args[:end]:
        old, equals, value = arg.partition("=")
        if old in renamed:
            say(f"{old} is deprecated in this command; write {renamed[old]}", err=True)
        spelled.append(renamed.get(old, old) + equals + value)
    return spelled + args[end:]


def _repeat(option: str, args: list[str]) -> list[str]:
    repeated: list[str] = []
    for index, arg in enumerate(args):
        if arg == "--":
            return repeated + args[index:]
        following = len(repeated) >= 2 and repeated[-2] == option
        if following and not arg.startswith("-"):
            repeated.append(option)
        repeated.append(arg)
    return repeated
