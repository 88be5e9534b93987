"""``unicuco profile-device``: what the parts of a model take to run here, for limits on latency and speed."""

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unicuco_plugin.cli.options import debug_option, json_option, model_options, vllm_python_option
from unicuco_plugin.cli.output import say
from unicuco_plugin.cli.progress import ProgressBars
from unicuco_plugin.files.json_text import json_text

if TYPE_CHECKING:  # they bring torch with them
    from unicuco_plugin.costs.device_table import DeviceTable
    from unicuco_plugin.strategy import ModelReference

__all__ = ["profile_device"]


def _read_numbers(_ctx: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not whole numbers such as 1,8") from error
    if min(numbers) < 1:
        raise click.BadParameter(f"{value!r} must be positive numbers")
    return numbers


@click.command(name="profile-device")
@click.option("--model", required=True, help="The dense model: a folder, or a name on the hub.")
@click.option(
    "--engine",
    type=click.Choice(["transformers", "vllm"]),
    default="transformers",
    show_default=True,
    help="What runs it.",
)
@vllm_python_option
@click.option(
    "--schemes",
    metavar="NAME,NAME,...",
    default="",
    help="With vLLM: also time linears stored so, such as W4A16:g64; what the device has no kernel of is refused.",
)
@click.option("--eager", is_flag=True, help="With vLLM: compile and capture nothing; starts sooner, runs slower.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The table's file, such as device.json.")
@click.option(
    "--batch",
    metavar="N,N,...",
    default="1",
    show_default=True,
    callback=_read_numbers,
    help="Sequences that run at once; requests between two numbers are interpolated.",
)
@click.option(
    "--context",
    metavar="N,N,...",
    default="128,1024",
    show_default=True,
    callback=_read_numbers,
    help="Tokens of each sequence: of a prompt, and of the cache that one more token reads.",
)
@click.option(
    "--repeats", type=click.IntRange(1, 1000), default=5, show_default=True, help="Rounds; medians of them count."
)
@model_options
@click.option("--resume", is_flag=True, help="Go on with an interrupted measurement.")
@click.option("--overwrite", is_flag=True, help="Begin anew over the table at --output.")
@json_option
@debug_option
def profile_device(output: Path, as_json: bool, **fields: Any) -> None:  # noqa: ANN401 - one per option
    """Time a model's attentions and MLPs where it will run, for requests of milliseconds and speed.

    Transformers runs the model: prompts, and single tokens with a cache; every distinct module is timed inside the
    running model, whole and in the widths that pruning may leave. vLLM, in an environment of its own, is timed as a
    whole: for the dense model, and for ones without every second attention or MLP, or with narrower MLPs. Leave the
    machine alone meanwhile. Each step is on disk: after Ctrl-C, or anything worse, the same command with --resume goes
    on.
    """
    from unicuco_plugin.report.device import describe_table
    from unicuco_plugin.timing.measurement import Sizes, check_output, is_begun

    output = output.expanduser()
    again = {"resume": fields["resume"], "overwrite": fields["overwrite"]}
    check_output(output, **again)
    sizes = Sizes(fields["batch"], fields["context"], fields["repeats"])
    measure = _in_vllm(fields) if fields["engine"] == "vllm" else _in_transformers(fields)
    try:
        with ProgressBars("steps") as bars:
            table = measure(output=output, sizes=sizes, **again, progress=bars)
    except KeyboardInterrupt:
        if is_begun(output):
            instead = " instead of --overwrite" if fields["overwrite"] else ""
            say(f"\nstopped; {output} keeps what is done, go on with the same command and --resume{instead}", err=True)
        raise
    say(json_text(table.model_dump(mode="json")) if as_json else describe_table(table))
    say(f"\nwritten to {output}; ask with: --device-table {shlex.quote(str(output))} --context N", err=True)


def _in_transformers(fields: dict[str, Any]) -> Callable[..., "DeviceTable"]:
    from unicuco_plugin.models.blocks.decoder import find_decoder
    from unicuco_plugin.timing.profile import profile_device as measure

    given = next((name for name in ("--schemes", "--eager", "--vllm-python") if fields[name[2:].replace("-", "_")]), "")
    if given:
        raise click.UsageError(f"{given} goes with --engine vllm")
    loaded, reference = _load(fields)
    return partial(measure, find_decoder(loaded), model=reference)


def _in_vllm(fields: dict[str, Any]) -> Callable[..., "DeviceTable"]:
    from unicuco_plugin.models.blocks.decoder import find_decoder
    from unicuco_plugin.schemes import parse_scheme
    from unicuco_plugin.timing.variants import find_variants
    from unicuco_plugin.timing.vllm_engine import VllmEngine
    from unicuco_plugin.timing.wholes import profile_wholes

    if (fields["device"], fields["offload"]) != ("cpu", "auto"):
        raise click.UsageError("--device and --offload go with --engine transformers: vLLM finds its device itself")
    schemes = [parse_scheme(name.strip()).asked for name in fields["schemes"].split(",") if name.strip()]
    engine = VllmEngine.find(fields["vllm_python"], eager=fields["eager"])
    engine.describe("auto")  # before a model is loaded
    loaded, reference = _load(fields | {"offload": "none"})
    # The model itself is not kept: vLLM needs the memory.
    return partial(profile_wholes, find_variants(find_decoder(loaded), schemes), model=reference, engine=engine)


def _load(fields: dict[str, Any]) -> tuple[Any, "ModelReference"]:
    from unicuco_plugin.models.blocks.fingerprint import fingerprint
    from unicuco_plugin.models.loading import display_name, load_model
    from unicuco_plugin.strategy import ModelReference

    names = ("revision", "trust_remote_code", "dtype", "device", "offload")
    loaded = load_model(fields["model"], **{name: fields[name] for name in names}, tell=partial(say, err=True))
    return loaded, ModelReference(name=display_name(fields["model"]), fingerprint=str(fingerprint(loaded)))
