"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from unicuco_plugin.cli.failure import DEBUG, one_line
from unicuco_plugin.request import BESIDE, KINDS, LIMITS, Request

__all__ = [
    "Function",
    "accept_option",
    "apply_options",
    "calibration_option",
    "check_load",
    "compensation_option",
    "debug_option",
    "device_table_option",
    "json_option",
    "load_options",
    "model_options",
    "overwrite_option",
    "place_options",
    "read_request",
    "request_options",
    "vllm_python_option",
    "window_options",
]

Function = TypeVar("Function", bound=Callable[..., Any])


def _read_pair(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> dict[str, Any] | None:
    if value is None:
        return None
    names, amounts = zip(*(part.rpartition("=")[::2] for part in value.split(",")), strict=True)
    try:
        size, quality = map(float, amounts)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not two numbers such as 0.3,0.7 or bytes=0.3,divergence=0.7") from error
    return {"preference": (size, quality), **({"over": names} if any(names) else {})}


def _check_device(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value not in (None, "cpu", "auto"):
        import torch

        try:
            torch.empty(0, device=value)
        except (RuntimeError, AssertionError) as error:
            raise click.BadParameter(f"{value!r} cannot be used: {one_line(str(error))}") from error
    return value


def _note_debug(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[DEBUG] = True


# Eager, so that it counts for errors in any other option too.
debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, is_eager=True, callback=_note_debug, help="Show tracebacks of errors."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a machine to read.")
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace what is at --output once the new is complete."
)
accept_option = click.option(
    "--accept-other-weights",
    is_flag=True,
    help="Also accept a model of the same structure with other weights (a fine-tune); divergences are then carried "
    "over, not measured.",
)

compensation_option = click.option(
    "--compensation",
    help="For depth, sublayer and structured: correct for what leaves, on --calibration text, in weights that stay: "
    "none (the default), bias, scale, linear, ridge, sequential, or another that unicuco plugins lists.",
)

_LOAD_OPTIONS = (
    click.option("--context", type=int, help="Count memory and time with sequences of so many tokens."),
    click.option("--batch", type=int, help="And so many sequences at once.  [default: 1]"),
    click.option(
        "--cache-dtype",
        type=click.Choice(["float32", "bfloat16", "float16", "fp8"]),
        help="What keys and values are kept in.  [default: the model's dtype]",
    ),
    click.option(
        "--phase",
        type=click.Choice(["decode", "prefill"]),
        help="What --min-speedup is of: tokens that are written, or read.  [default: decode]",
    ),
)
_REQUEST_OPTIONS = (
    click.option("--sparsity", type=float, help="Remove at least this share of the prunable weights, in (0, 1)."),
    *(
        click.option(
            f"--{kind.replace('_', '-')}",
            type=limit.number if limit.read is None else str,
            metavar=None if limit.read is None else limit.cost.upper(),
            help=limit.text,
        )
        for kind, limit in LIMITS.items()
    ),
    click.option("--max-divergence", type=float, help="The smallest model within this divergence, in nats per token."),
    click.option(
        "--preference",
        metavar="SIZE,QUALITY",
        callback=_read_pair,
        help="Weights of size and quality, for instance 0.3,0.7; or of two costs: bytes=0.3,divergence=0.7.",
    ),
    *_LOAD_OPTIONS,
)


def request_options(function: Function) -> Function:
    """Add one option for each kind of request; :func:`read_request` reads them."""
    return apply_options(_REQUEST_OPTIONS, function)


def load_options(function: Function) -> Function:
    """Add the load of a request, by itself."""
    return apply_options(_LOAD_OPTIONS, function)


def read_request(fields: dict[str, Any]) -> Request | None:
    """Take the request options out of a command's arguments.

    Args:
        fields: The arguments of the command; those of a request are removed.

    Returns:
        The request, or None where no option was given.

    Raises:
        RequestError: If a value is out of range.
    """
    values = {name: fields.pop(name) for name in (*KINDS, *BESIDE)}
    given = {kind: value for kind, value in values.items() if value is not None}
    return Request.of(**given | given.pop("preference", {})) if given else None


device_table_option = click.option(
    "--device-table",
    type=click.Path(path_type=Path),
    callback=lambda _ctx, _parameter, value: value and value.expanduser(),
    help="Times of the model where it will run, from unicuco profile-device: for --max-latency and --min-speedup.",
)


vllm_python_option = click.option(
    "--vllm-python",
    type=click.Path(path_type=Path),
    help="The Python of an environment with vLLM, where times are vLLM's.  [default: this one]",
)


def check_load(device_table: Path | None, *requests: Request | None) -> None:
    """Refuse a table of times where nothing is asked of it.

    Raises:
        click.UsageError: If no request has a load.
    """
    if device_table is not None and not any(request is not None and request.load is not None for request in requests):
        raise click.UsageError("--device-table needs the load whose times are asked: --context N")


def model_options(function: Function) -> Function:
    """Add what every command that loads a model takes; ``--model`` itself is the command's own."""
    return apply_options(
        (
            click.option("--revision", help="Branch, tag or commit on the hub."),
            click.option("--trust-remote-code", is_flag=True, help="Let code in the model's own repository run."),
            click.option(
                "--dtype", default="auto", show_default=True, help="Such as bfloat16; auto is the checkpoint's own."
            ),
            place_options(),
        ),
        function,
    )


def place_options(*, plan: bool = False) -> Callable[[Function], Function]:
    """Add where a model is; where a ``plan`` in a file says so too, that counts for options that are left out."""
    options = (
        click.option(
            "--device",
            default=None if plan else "cpu",
            show_default=True,
            callback=_check_device,
            help="Such as cpu, cuda or cuda:1; auto takes all accelerators that there are.",
        ),
        click.option(
            "--offload",
            type=click.Choice(["auto", "cpu", "disk", "none"]),
            default=None if plan else "auto",
            show_default=True,
            help="Where blocks wait until they are needed: on the device (none), in memory (cpu), or in the "
            "model's own files (disk); auto takes the first that has room, and says which.",
        ),
    )
    return lambda function: apply_options(options, function)


def window_options(count_name: str, count: int, length: int) -> Callable[[Function], Function]:
    """Add how many windows of which length are cut from text, and the seed that places them.

    Args:
        count_name: The option's name: ``--windows``, or ``--samples`` where the toolkit calls them so.
        count: Its default.
        length: The default of ``--seq-length``.
    """
    positive = click.IntRange(min=1)
    options = (
        click.option(count_name, type=positive, default=count, show_default=True, help="Windows cut from the text."),
        click.option(
            "--seq-length", type=click.IntRange(min=2), default=length, show_default=True, help="Tokens in a window."
        ),
        click.option(
            "--seed",
            type=int,
            default=0,
            show_default=True,
            help="Decides where windows lie and all else that is random.",
        ),
    )
    return lambda function: apply_options(options, function)


def calibration_option(text: str) -> Callable[[Function], Function]:
    """Add ``--calibration FILE...``; the command must be a ``cli.command.ManyFilesCommand``."""
    return click.option("--calibration", multiple=True, metavar="FILE...", help=text)


def apply_options(options: tuple[Callable[[Function], Function], ...], function: Function) -> Function:
    """Add several options to a command, which are shown in their order."""
    for option in reversed(options):
        function = option(function)
    return function
