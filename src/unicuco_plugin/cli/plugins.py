"""``unicuco plugins``: what can be named on the command line, and which package brings it."""

import click

from unicuco_plugin.cli.options import debug_option, json_option
from unicuco_plugin.cli.output import say
from unicuco_plugin.files.json_text import json_text
from unicuco_plugin.report.table import format_table

__all__ = ["plugins"]


@click.command()
@json_option
@debug_option
def plugins(as_json: bool) -> None:
    """List spaces, objectives, peers and all else that is chosen by name, each with its package."""
    from unicuco_plugin.plugins.manager import list_plugins

    entries = list_plugins()
    if as_json:
        data = [
            {
                "kind": entry.kind,
                "name": entry.name,
                "package": entry.package,
                "version": entry.version,
                "hooks": list(entry.hooks),
            }
            for entry in entries
        ]
        say(json_text(data))
        return
    rows = [(entry.kind, entry.name, f"{entry.package} {entry.version}".strip()) for entry in entries]
    say(format_table(("kind", "name", "package"), rows))
    hooks = {entry.package: entry.hooks for entry in entries}
    say("\n" + "\n".join(f"hooks of {package}: {', '.join(names)}" for package, names in hooks.items()))
