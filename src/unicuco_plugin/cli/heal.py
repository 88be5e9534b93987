"""``unicuco heal``: a compressed checkpoint taught a little by the dense model."""

from pathlib import Path
from typing import Any

import click

from unicuco_plugin.cli.command import ManyFilesCommand
from unicuco_plugin.cli.options import (
    apply_options,
    calibration_option,
    debug_option,
    model_options,
    overwrite_option,
)
from unicuco_plugin.cli.output import say
from unicuco_plugin.cli.progress import ProgressBars
from unicuco_plugin.errors import RequestError, explain
from unicuco_plugin.escaping import escape_line
from unicuco_plugin.healing.settings import HealingSettings
from unicuco_plugin.quantities import parse_tokens

__all__ = ["heal"]


def _read_tokens(_ctx: click.Context, _parameter: click.Parameter, value: str) -> int:
    try:
        return parse_tokens(value)
    except RequestError as error:
        raise click.BadParameter(str(error)) from error


_SETTINGS = tuple(
    click.option(
        f"--{name.replace('_', '-')}",
        type=field.annotation,
        default=field.default,
        show_default=True,
        help=f"{str(field.description)[0].upper()}{str(field.description)[1:]}.",
    )
    for name, field in HealingSettings.model_fields.items()
    if name != "tokens"
)


@click.command(cls=ManyFilesCommand)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--teacher", required=True, help="The dense model that it was made of: a folder, or a name on the hub.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The healed checkpoint's folder.")
@click.option(
    "--tokens", default="500k", show_default=True, callback=_read_tokens, help="Tokens to train on, such as 500k or 2M."
)
@calibration_option("Text, JSONL, or a dataset's folder or name. Without it the dense model writes its own text.")
@click.option("--split", default="train", show_default=True, help="Which split of a dataset.")
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    help="Where the dense model's logits and an unfinished run are kept.  [default: OUTPUT.healing]",
)
@lambda function: apply_options(_SETTINGS, function)
@model_options
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@overwrite_option
@debug_option
def heal(checkpoint: Path, teacher: str, output: Path, **fields: Any) -> None:  # noqa: ANN401 - one per setting
    """Heal a pruned CHECKPOINT: low-rank adapters learn the dense model's distribution and are merged.

    What is written has the form of CHECKPOINT and can be quantised by a recipe. Held-out windows choose the step that
    is kept; nothing is written unless the divergence fell on others.
    """
    from pydantic import ValidationError

    try:
        settings = HealingSettings(**{name: fields.pop(name) for name in HealingSettings.model_fields})
    except ValidationError as error:
        raise click.UsageError(explain(error)) from error
    from unicuco_plugin.healing.heal import heal as heal_checkpoint
    from unicuco_plugin.report.comparison import show_estimate
    from unicuco_plugin.report.table import format_seconds

    with ProgressBars("windows") as bars:
        done = heal_checkpoint(checkpoint, teacher, output, settings=settings, progress=bars, **fields)
    lines = [
        f"divergence  {show_estimate(done.before, 4)} before, {show_estimate(done.after, 4)} after, nats per token on "
        f"{settings.confirming} held-out windows",
        f"kept        what {done.look.tokens:,} tokens taught",
        *([f"note        {done.note}"] if done.note else []),
        f"checkpoint  {done.path}, in {format_seconds(done.seconds)}",
    ]
    say("\n".join(map(escape_line, lines)))
