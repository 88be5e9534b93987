"""``unicuco check``: will a server load a quantised checkpoint, and with which kernels."""

from pathlib import Path

import click

from unicuco_plugin.cli.failure import Failure
from unicuco_plugin.cli.options import debug_option, json_option
from unicuco_plugin.cli.output import say
from unicuco_plugin.errors import CheckpointError
from unicuco_plugin.files.json_text import json_text
from unicuco_plugin.report.serving import describe_verdict, verdict_data

__all__ = ["check"]


class _Unreadable(Failure):
    """Nothing was checked, which a script must not take for a checkpoint that does not load."""

    exit_code = 2


@click.command()
@click.argument("checkpoint", metavar="FOLDER_OR_CONFIG", type=click.Path(path_type=Path))
@click.option(
    "--device",
    "kinds",
    multiple=True,
    type=click.Choice(["cuda", "cpu"]),
    help="Where it is to be served; twice for both. Without it the kernels of both are shown, and one must do.",
)
@click.option(
    "--capability",
    type=click.FloatRange(min=1.0, max=20.0),
    default=8.0,
    show_default=True,
    help="Compute capability of the CUDA device, such as 7.5, 8.9 or 9.0.",
)
@json_option
@debug_option
@click.pass_context
def check(ctx: click.Context, checkpoint: Path, kinds: tuple[str, ...], capability: float, as_json: bool) -> None:
    """Say whether vLLM loads a compressed-tensors checkpoint, and with which kernels.

    FOLDER_OR_CONFIG is a checkpoint's folder, its config.json, or a quantization_config alone in a JSON file. Nothing
    of it is run and no tensor is read. Exit codes: 0 it loads, 1 it does not or would load another model, 2 there was
    nothing to check.
    """
    from unicuco_plugin.serving.kernels import Device
    from unicuco_plugin.serving.verdict import check_serving

    known = {"cuda": Device("cuda", round(capability * 10)), "cpu": Device("cpu")}
    try:
        verdict = check_serving(
            checkpoint.expanduser(),
            [known[kind] for kind in dict.fromkeys(kinds)] or list(known.values()),
            chosen=bool(kinds),
        )
    except CheckpointError as error:
        raise _Unreadable(str(error)) from error
    name = checkpoint.expanduser().resolve().name
    say(json_text(verdict_data(name, verdict)) if as_json else describe_verdict(name, verdict))
    if not verdict.loads:
        ctx.exit(1)
