"""``unicuco levels``: the database of every linear at every sparsity or in every scheme, built once for a model."""

import shlex
from functools import partial
from pathlib import Path
from typing import Any

import click

from unicuco_plugin.cli.command import ManyFilesCommand
from unicuco_plugin.cli.options import calibration_option, debug_option, json_option, model_options, window_options
from unicuco_plugin.cli.output import say
from unicuco_plugin.cli.progress import ProgressBars
from unicuco_plugin.cli.ray_options import ray_options, read_workers
from unicuco_plugin.files.json_text import json_text

__all__ = ["build", "levels", "show"]


def _read_ladder(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not numbers such as 0.5,0.6,0.7") from error


def _read_schemes(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(part.strip() for part in value.split(","))


@click.group()
@debug_option
def levels() -> None:
    """Build or show a level database: every linear of a model, pruned at a ladder of sparsities or quantised."""


@levels.command(cls=ManyFilesCommand)
@click.option("--model", required=True, help="A model folder, or a name on the hub.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The database's folder.")
@calibration_option(
    "Text, JSONL, or a dataset's folder or name. Without it the model writes its own text (self-calibration)."
)
@click.option("--split", default="train", show_default=True, help="Which split of a dataset.")
@window_options("--samples", 128, 512)
@click.option(
    "--sparsities",
    metavar="S,S,...",
    callback=_read_ladder,
    help="The levels, ascending, each in (0, 1).  [default: 0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9]",
)
@click.option(
    "--schemes",
    metavar="S,S,...",
    callback=_read_schemes,
    help="Quantise instead, in each of these: W2A16 to W8A16 with :g32, :g64, :g128 or :channel and :asym, W8A8, "
    "FP8_DYNAMIC, NVFP4A16. Without a group, the largest that divides a linear's inputs. W8A8 and FP8_DYNAMIC round "
    "inputs too, which losses do not count: of schemes as small, training takes one that leaves inputs alone.",
)
@click.option(
    "--inputs",
    type=click.Choice(["dense", "pruned"]),
    help="What blocks are calibrated on: the dense model's states, or the mean of what earlier levels give.  [default: "
    "pruned; dense for schemes]",
)
@model_options
@ray_options
@click.option(
    "--levels-transport",
    type=click.Choice(["shared", "driver"]),
    help="With --ray: how files come into the database: written there by workers, whose machines see --output, or sent "
    "to this one.  [default: shared]",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted build, from the linear it was in.")
@click.option("--overwrite", is_flag=True, help="Remove the database at --output first.")
@debug_option
def build(model: str, output: Path, **fields: Any) -> None:  # noqa: ANN401 - one per option
    """Prune every linear of a model with SparseGPT at all levels in one sweep, and store the results.

    With --schemes every linear is quantised instead, by GPTQ in all schemes in one sweep, and stored packed, as
    checkpoints keep it.

    Each finished linear is on disk. After Ctrl-C, or anything worse, the same command with --resume continues.
    """
    from unicuco_plugin.modifiers.toolkit.log import set_toolkit_verbosity

    set_toolkit_verbosity(verbose=False)  # first: importing more of the toolkit already makes it talk
    from unicuco_plugin.executors.solving import LevelWorkers
    from unicuco_plugin.levels.build import build_levels
    from unicuco_plugin.levels.folder import check_output
    from unicuco_plugin.levels.settings import LevelSettings
    from unicuco_plugin.models.blocks.decoder import find_decoder
    from unicuco_plugin.models.exportable import check_exportable
    from unicuco_plugin.models.loading import display_name, load_config, load_tokenizer
    from unicuco_plugin.models.reach import load_reach
    from unicuco_plugin.report.levels import describe_levels
    from unicuco_plugin.texts.calibration import load_windows
    from unicuco_plugin.texts.selfcalibration import generate_windows, own_cache
    from unicuco_plugin.training.source import ModelSource

    workers = read_workers(fields)
    transport = fields.pop("levels_transport")
    if transport is not None and workers is None:
        raise click.UsageError("--levels-transport is about workers on Ray: add --ray")
    asked = {name: fields[name] for name in ("sparsities", "schemes", "inputs") if fields[name] is not None}
    settings = LevelSettings.of(**asked)
    output = output.expanduser()
    again = {"resume": fields["resume"], "overwrite": fields["overwrite"]}
    check_output(output, **again)
    hub = {"revision": fields["revision"], "trust_remote_code": fields["trust_remote_code"]}
    cut = {"count": fields["samples"], "length": fields["seq_length"], "seed": fields["seed"]}
    sources = fields["calibration"]
    check_exportable(load_config(model, **hub), "sparsity", trust_remote_code=fields["trust_remote_code"])
    tokenizer = load_tokenizer(model, **hub)
    # Texts are checked before a weight is read.
    windows = None
    if sources:
        windows = load_windows(sources, tokenizer, **cut, split=fields["split"], reach=load_reach(model, **hub))
    source = ModelSource(model, **hub, **{name: fields[name] for name in ("dtype", "device", "offload")})
    decoder = find_decoder(source.load(partial(say, err=True)))
    if windows is None:
        windows = generate_windows(decoder.model, tokenizer, **cut, cache_dir=own_cache(output))
    try:
        with ProgressBars("linears") as bars:
            built = build_levels(
                decoder,
                windows,
                output,
                name=display_name(model),
                settings=settings,
                sources=sources or ("self-generated",),
                workers=None if workers is None else LevelWorkers(workers, source, transport or "shared"),
                progress=bars,
                **again,
            )
    except KeyboardInterrupt:
        say(f"\nstopped; {output} keeps what is done, go on with the same command and --resume", err=True)
        raise
    say(describe_levels(built))
    say(f"\nwritten to {output}; look again with: unicuco levels show {shlex.quote(str(output))}")


@levels.command()
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
@click.option("--verify", is_flag=True, help="Also compare every file with its checksum.")
@debug_option
def show(folder: Path, as_json: bool, verify: bool) -> None:
    """Show what the level database in FOLDER holds, its size, and how it was made."""
    from unicuco_plugin.levels.scheme_levels import open_levels
    from unicuco_plugin.report.levels import describe_levels, levels_data

    opened = open_levels(folder)
    if verify:
        opened.verify()
        say(f"all {len(opened.record.linears)} files match their checksums", err=True)
    say(json_text(levels_data(opened)) if as_json else describe_levels(opened))
