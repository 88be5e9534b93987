"""``unicuco train``: a profile for one model and space, made once."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import click

from unicuco_plugin.cli.command import ARGUMENTS, ManyFilesCommand
from unicuco_plugin.cli.failure import INTERRUPTED
from unicuco_plugin.cli.options import (
    calibration_option,
    compensation_option,
    debug_option,
    model_options,
    overwrite_option,
)
from unicuco_plugin.cli.output import say
from unicuco_plugin.cli.progress import ProgressBars
from unicuco_plugin.cli.ray_options import ray_options, read_workers
from unicuco_plugin.cli.settings_options import read_settings, settings_options

__all__ = ["train"]


def _read_bounds(
    _ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, tuple[float, float]]:
    bounds = {}
    for value in values:
        name, _, pair = value.rpartition("=")
        try:
            low, high = (float(part) for part in pair.split(","))
        except ValueError as error:
            raise click.BadParameter(f"{value!r} is not NAME=LOW,HIGH such as re:.*v_proj=0,0.6") from error
        bounds[name] = (low, high)
    return bounds


# What options were called before each had one name in all commands: samples are windows, as in the toolkit.
_RENAMED = {"--samples": "--documents", "--limits": "--bounds", "--no-compensation": "--no-compensate"}


# Options of a command that say how a model is loaded.
_LOADING = ("device", "dtype", "offload", "revision", "trust_remote_code")


@click.command(cls=ManyFilesCommand, renamed=_RENAMED)
@click.option("--model", required=True, help="A model folder, or a name on the hub.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The profile's folder.")
@click.option("--space", default="depth", show_default=True, help="What strategies decide about; see unicuco plugins.")
@click.option("--objective", default="divergence", show_default=True, help="What is measured; see unicuco plugins.")
@click.option(
    "--levels",
    type=click.Path(path_type=Path),
    help="For sparsity, precision and compound: the folder of a level database.",
)
@click.option(
    "--granularity",
    type=click.Choice(["block", "sublayer", "linear"]),
    default="linear",
    show_default=True,
    help="For sparsity: what one share governs.",
)
@click.option(
    "--ignore",
    multiple=True,
    metavar="NAME",
    help="For sparsity, precision and compound: a unit that stays dense, or re:PATTERN.",
)
@click.option(
    "--bounds",
    multiple=True,
    metavar="NAME=LOW,HIGH",
    callback=_read_bounds,
    help="For sparsity: least and largest share of a unit, or of all that match re:PATTERN.",
)
@click.option("--ranking", default="flap", show_default=True, help="For structured: which parts of a module go first.")
@click.option(
    "--compensate/--no-compensate",
    default=None,
    help="For structured: add the mean output of removed parts as biases (the default, but for the form deci).",
)
@click.option(
    "--round-to",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="For structured: how many neurons go together.",
)
@click.option(
    "--units",
    type=click.Choice(["mlp-width,heads", "mlp-width,attention"]),
    help="For structured: whether attentions lose head groups (the default) or go whole, as the form deci wants it.",
)
@click.option(
    "--format",
    type=click.Choice(["deci"]),
    help="For sublayer and structured: attentions and MLPs leave the checkpoint by themselves, in the form deci, which "
    "vLLM loads; MLPs may be narrower in structured, attentions go whole, and nothing gets a bias.",
)
@compensation_option
@calibration_option(
    "Text, JSONL, or a dataset's folder or name. Without it the model writes its own text (self-calibration)."
)
@click.option("--split", default="train", show_default=True, help="Which split of a dataset.")
@click.option("--documents", type=click.IntRange(min=1), help="The most documents to take from each source.")
@settings_options
@model_options
@ray_options
@click.option("--resume", is_flag=True, help="Continue an interrupted run; nothing is measured twice.")
@overwrite_option
@debug_option
@click.pass_context
def train(ctx: click.Context, /, output: Path, resume: bool, **fields: Any) -> None:  # noqa: ANN401 - one per setting
    """Train a profile: measure strategies on the model, and learn to answer any request from them.

    Every measurement is kept as soon as it is made. After Ctrl-C, or anything worse, the same command with --resume
    continues from there.
    """
    settings, workers = read_settings(fields), read_workers(fields)
    command = shlex.join(["unicuco", "train", *ctx.meta[ARGUMENTS]])
    from unicuco_plugin.report.front import describe_profile
    from unicuco_plugin.training import JOURNAL, CalibrationText, ModelSource, UnitOptions, train_profile

    model = ModelSource(fields.pop("model"), **{name: fields.pop(name) for name in _LOADING})
    text = CalibrationText(fields.pop("calibration"), split=fields.pop("split"), documents=fields.pop("documents"))
    units = UnitOptions(**{unit.name: fields.pop(unit.name) for unit in dataclasses.fields(UnitOptions)})
    how = "go on with the same command and --resume"
    try:
        with ProgressBars() as bars:
            profile = train_profile(
                model,
                output,
                units=units,
                calibration=text,
                settings=settings,
                resume=resume,
                command=command,
                workers=workers,
                progress=bars,
                **fields,
            )
            interrupted = bool(profile.provenance.get("interrupted"))
            if not interrupted:
                bars.finish()
    except KeyboardInterrupt:
        if (output / JOURNAL).exists():
            say(f"\nstopped too early to answer; {output} keeps what was measured, {how}", err=True)
        raise
    say(describe_profile(profile))
    ask = "--bits 4" if "bits" in profile.costs.names else "--sparsity 0.25"
    say(f"\nwritten to {output}; ask it with: unicuco strategy {shlex.quote(str(output))} {ask}")
    if interrupted:
        say(f"stopped early; {output} can be used as it is, or {how}", err=True)
        ctx.exit(INTERRUPTED)
