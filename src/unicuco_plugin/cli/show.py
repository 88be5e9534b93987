"""``unicuco show``: what a profile knows."""

from pathlib import Path
from typing import Any

import click

from unicuco_plugin.cli.options import debug_option, device_table_option, json_option, load_options
from unicuco_plugin.cli.output import say
from unicuco_plugin.files.json_text import json_text
from unicuco_plugin.quantities import LoadFields
from unicuco_plugin.report.front import describe_profile, profile_data

__all__ = ["show"]


@click.command()
@click.argument("profile")
@json_option
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also draw the front, and which units go at each budget (.png, .svg or .pdf).",
)
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the page of unicuco serve as one file that needs no server (.html).",
)
@load_options
@device_table_option
@debug_option
def show(
    profile: str,
    *,
    as_json: bool,
    plot: Path | None,
    html: Path | None,
    device_table: Path | None,
    **fields: Any,  # noqa: ANN401 - one per option of a load
) -> None:
    """Show the best strategy of PROFILE at every budget, and how the profile was made.

    With --context, and --device-table for times, the page of --html also asks for memory, latency and speed.
    """
    load = LoadFields.read(**{name: value for name, value in fields.items() if value is not None})
    if load is not None and html is None:
        raise click.UsageError("--context is for the page of --html FILE")
    if device_table is not None and load is None:
        raise click.UsageError("--device-table needs the load whose times are asked: --context N")
    from unicuco_plugin.answering import load_profile

    loaded = load_profile(profile, device_table=device_table)
    if plot is not None:
        from unicuco_plugin.report.plot import plot_front

        plot_front(loaded.front(), loaded.units, plot.expanduser(), title=f"{loaded.name}, space {loaded.space}")
        say(f"drawn to {plot}", err=True)
    if html is not None:
        from unicuco_plugin.web.embedded import save_page
        from unicuco_plugin.web.library import Served

        save_page(Served.of(Path(profile).name, loaded), html.expanduser(), load)
        say(f"written to {html}", err=True)
    say(json_text(profile_data(loaded)) if as_json else describe_profile(loaded))
