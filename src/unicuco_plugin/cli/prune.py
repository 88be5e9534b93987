"""``unicuco prune``: a pruned checkpoint that stock tools load."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unicuco_plugin.cli.calibrating import read_windows, write_own
from unicuco_plugin.cli.command import ManyFilesCommand
from unicuco_plugin.cli.failure import QUIET
from unicuco_plugin.cli.options import (
    accept_option,
    calibration_option,
    check_load,
    compensation_option,
    debug_option,
    json_option,
    model_options,
    overwrite_option,
    read_request,
    request_options,
    window_options,
)
from unicuco_plugin.cli.output import say
from unicuco_plugin.cli.progress import ProgressBars
from unicuco_plugin.cli.prune_options import latency_options, peer_options, structured_options
from unicuco_plugin.cli.verifying import check_verifiable, verify
from unicuco_plugin.report.export import describe_export, export_data
from unicuco_plugin.request import Request
from unicuco_plugin.traits import storing, zeroing

if TYPE_CHECKING:  # it brings torch with it
    from llmcompressor.modifiers import Modifier

__all__ = ["prune"]

_SOURCES = ("profile", "strategy", "recipe", "peer", "evopress")
# What only some peers take, or only a file of EvoPress.
_PEER_OPTIONS = ("setting", "token_budget", "journal")
# What the command reads beside the model and the text.
_INPUTS = ("profile", "device_table", "strategy", "recipe", "evopress", "levels", "journal", "kept_parts")
# What says how a structured strategy is carried out.
_STRUCTURED = ("format", "kept_parts", "ranking", "compensate")


@click.command(cls=ManyFilesCommand)
@click.option("--model", required=True, help="The dense model: a folder, or a name on the hub.")
@click.option("--profile", help="A profile's folder, or the name of a packaged one; with one request.")
@request_options
@latency_options
@click.option("--strategy", type=click.Path(path_type=Path), help="Or: a strategy file, as strategy --json prints it.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Or: a recipe of llm-compressor.")
@peer_options
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The checkpoint's folder, a new one.")
@click.option(
    "--engine",
    type=click.Choice(["sparsegpt", "wanda", "gptq", "levels"]),
    help="What zeroes weights, for profiles that sparsify (sparsegpt by default), or quantises them, for profiles of "
    "bits (gptq by default, levels where --levels is given); dropping blocks needs none.",
)
@click.option(
    "--levels",
    type=click.Path(path_type=Path),
    help="The level database that --engine levels takes weights from, and that peers such as evopress search on.",
)
@calibration_option(
    "Text, JSONL, or a dataset's folder or name, for modifiers that need it; depth alone does not. Without it, for "
    "profiles that sparsify, compensation and peers that read text, the model writes its own (self-calibration)."
)
@click.option("--split", default="train", show_default=True, help="Which split of a dataset.")
@window_options("--samples", 128, 512)
@structured_options
@compensation_option
@accept_option
@model_options
@overwrite_option
@json_option
@click.option("--verbose", is_flag=True, help="Show llm-compressor's own messages and progress bars.")
@debug_option
def prune(output: Path, overwrite: bool, as_json: bool, verbose: bool, **fields: Any) -> None:  # noqa: ANN401
    """Prune a model with a profile, a peer, a strategy or a recipe, and write the checkpoint.

    The folder holds weights, configuration, tokenizer, the recipe that made it and a model card. It appears complete
    or not at all.
    """
    request = read_request(fields)
    _check_source(fields, request)
    if verbose:
        os.environ.pop(QUIET, None)
    from unicuco_plugin.models.output_folder import check_output
    from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe

    model = fields["model"]
    inputs = [*(fields[name] for name in _INPUTS), *fields["calibration"]]
    check_output(output, overwrite=overwrite, source=Path(model) if Path(model).is_dir() else None, inputs=inputs)
    modifiers = [] if fields["recipe"] else _modifiers(fields, request)
    if fields["verify_latency"]:
        check_verifiable(modifiers[0].resolve()[0], fields)
    reads_text = len(modifiers) > 1 or any(getattr(modifier, "needs_text", False) for modifier in modifiers)
    with ProgressBars("steps") as bars:
        if fields["peer"]:
            modifiers[0].watch(bars)
        done = prune_with_recipe(
            model,
            fields["recipe"] or modifiers,
            output,
            overwrite=overwrite,
            calibration=write_own(fields) if reads_text and not fields["calibration"] else read_windows(fields),
            verbose=verbose,
            tell=partial(say, err=True),
            **{name: fields[name] for name in ("revision", "trust_remote_code", "dtype", "device", "offload")},
        )
    say(export_data(done) if as_json else describe_export(done))
    if fields["verify_latency"]:
        modifiers.clear()  # they hold the model, too
        done = replace(done, model=None)
        say(verify(done, fields), err=as_json)


def _check_source(fields: dict[str, Any], request: Request | None) -> None:
    given = [source for source in _SOURCES if fields[source] is not None]
    if len(given) != 1:
        got = " and ".join(f"--{source}" for source in given) or "none"
        sources = "--profile or --peer with a request, --strategy, --recipe and --evopress"
        raise click.UsageError(f"give one of {sources}; got {got}")
    source = given[0]
    if request is None and source in ("profile", "peer"):
        raise click.UsageError(f"--{source} needs one request, for instance --sparsity 0.25")
    if request is not None and source in ("strategy", "recipe"):
        raise click.UsageError(f"a request goes with --profile or --peer, not with --{source}")
    fitting = ("sparsity", "bits") if source == "peer" else ("sparsity",)
    if request is not None and source != "profile" and request.kind not in fitting:
        names = " or ".join(f"--{name}" for name in fitting)
        others = " and ".join(f"--{kind.replace('_', '-')}" for kind in request.kinds)
        raise click.UsageError(f"--{source} goes with {names}, not with {others}")
    for option in _PEER_OPTIONS if source != "peer" else ():
        if fields[option] is not None:
            raise click.UsageError(f"--{option.replace('_', '-')} goes with --peer, not with --{source}")
    if fields["device_table"] is not None and source != "profile":
        raise click.UsageError(f"--device-table goes with --profile, not with --{source}")
    if fields["verify_latency"] and fields["device_table"] is None:
        raise click.UsageError("--verify-latency needs --device-table FILE")
    if fields["verify_latency"] and fields["trust_remote_code"]:
        raise click.UsageError("--verify-latency loads no code of a checkpoint's own: leave --trust-remote-code out")
    check_load(fields["device_table"], request)
    if fields["step"] is not None and source != "evopress":
        raise click.UsageError(f"--step goes with --evopress, not with --{source}")
    for option in ("engine", "levels", "space", "accept_other_weights", "compensation", *_STRUCTURED):
        said = fields[option] not in (None, False) or (option == "compensate" and fields[option] is not None)
        if source == "recipe" and said:
            spelling = "no-compensate" if fields[option] is False else option.replace("_", "-")
            raise click.UsageError(f"--{spelling} does not go with --recipe; write it into the recipe")


def _modifiers(fields: dict[str, Any], request: Request | None) -> "list[Any]":
    """The modifier of the profile, strategy or peer, and the pass that carries it out where weights are zeroed."""
    from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier

    modifier = SparsityProfileModifier(
        **_source(fields, request),
        accept_other_weights=fields["accept_other_weights"],
        structured={option: fields[option] for option in _STRUCTURED if fields[option] is not None} or None,
        compensation=fields["compensation"],
    )
    if fields["space"] not in (None, *modifier.spaces):
        raise click.UsageError(
            f"--space {fields['space']}: the given source is of the space {' and '.join(modifier.spaces)}; leave it out"
        )
    stores = storing(modifier.spaces)
    stitched = fields["engine"] == "levels" or (stores and fields["levels"] is not None and fields["engine"] is None)
    searching = fields["peer"] is not None and fields["levels"] is not None
    if stitched != (fields["levels"] is not None) and not searching:
        missing = "--levels DIR, the database" if stitched else "--engine levels, which stitches from it"
        raise click.UsageError(f"--engine levels and --levels DIR go together; add {missing}")
    modifier.levels = str(fields["levels"]) if stitched else None
    if stores != (fields["engine"] == "gptq") and fields["engine"] not in (None, "levels"):
        fits = "gptq" if stores else "sparsegpt or wanda"
        raise click.UsageError(
            f"--engine {fields['engine']} does not go with the space {' and '.join(modifier.spaces)}; take {fits}"
        )
    if stores:
        return [modifier] if stitched else [modifier, _quantiser()]
    if zeroing(modifier.spaces):
        return [modifier] if stitched else [modifier, _pass(fields["engine"] or "sparsegpt")]
    if fields["engine"] is not None:
        raise click.UsageError(
            f"--engine {fields['engine']}: a strategy of the space {' and '.join(modifier.spaces)} takes out what it "
            "names, which needs no engine; leave it out"
        )
    return [modifier]


def _source(fields: dict[str, Any], request: Request | None) -> dict[str, Any]:
    """What the strategy comes from, as the modifier's fields."""
    if fields["strategy"] is not None:
        return {"strategy": fields["strategy"]}
    if fields["evopress"] is not None:
        sparsity = None if request is None else request.sparsity
        given = {"sparsity": sparsity, "step": fields["step"]}
        return {"evopress": {"file": fields["evopress"], **{k: v for k, v in given.items() if v is not None}}}
    asked = {"request": None if request is None else request.to_dict()}
    if fields["profile"] is not None:
        return {"profile": fields["profile"], "device_table": fields["device_table"], **asked}
    options = {name: fields[name] for name in ("levels", "space", *_PEER_OPTIONS)}
    from unicuco_plugin.plugins.manager import make_peer

    peer = make_peer(fields["peer"])
    if fields["engine"] == "levels" and "levels" not in peer.takes:
        del options["levels"]  # only stitched from
    if "seed" in peer.takes:
        options["seed"] = fields["seed"]
    return {"peer": {"name": fields["peer"], **{k: v for k, v in options.items() if v is not None}}, **asked}


def _pass(engine: str) -> "Modifier":
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier

    passes = {"sparsegpt": SparseGPTModifier, "wanda": WandaPruningModifier}
    # Its sparsity stands for one number per linear, which it gets when it is filled.
    return passes[engine](sparsity=0.5, ignore=["re:.*lm_head"])


def _quantiser() -> "Modifier":
    from llmcompressor.modifiers.gptq import GPTQModifier

    # Its groups stand for one scheme per unit, which it gets when it is filled.
    return GPTQModifier(ignore=["lm_head"])
