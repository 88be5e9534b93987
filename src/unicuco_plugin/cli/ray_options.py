"""Options of commands whose work may be done on Ray."""

from typing import TYPE_CHECKING, Any

import click

from unicuco_plugin.cli.options import Function

if TYPE_CHECKING:
    from unicuco_plugin.executors.on_ray import RayWorkers

__all__ = ["ray_options", "ray_words", "read_workers"]

_LOCAL = "local"
_OPTIONS = (
    click.option(
        "--ray",
        is_flag=False,
        flag_value=_LOCAL,
        metavar="[ADDRESS]",
        help="Work on Ray: on the cluster at the address (auto for the one this machine belongs to), or without one "
        "on this machine alone.  [extra: ray]",
    ),
    click.option("--workers", type=click.IntRange(min=1), help="With --ray: the most workers.  [default: 1]"),
    click.option(
        "--gpus-per-worker", type=click.FloatRange(min=0), help="With --ray: of each; a fraction shares.  [default: 0]"
    ),
    click.option(
        "--cpus-per-worker",
        type=click.FloatRange(min=0.001),
        help="With --ray: of each, and its threads.  [default: 1]",
    ),
)
# Options by name → the fields that they set.
_FIELDS = {"workers": "count", "gpus_per_worker": "gpus", "cpus_per_worker": "cpus"}


def ray_options(function: Function) -> Function:
    """Add ``--ray`` and how many workers of which size; :func:`read_workers` reads them."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def ray_words(fields: dict[str, Any]) -> list[str]:
    """The options as they were given, for the command that a result names."""
    words: list[str] = []
    for name in ("ray", *_FIELDS):
        if fields[name] is not None:
            value = fields[name]
            words += [f"--{name.replace('_', '-')}", *([] if value == _LOCAL else [f"{value}"])]
    return words


def read_workers(fields: dict[str, Any]) -> "RayWorkers | None":
    """Take the workers out of a command's arguments; None where it has none.

    Raises:
        click.UsageError: If something is said of workers without ``--ray``.
        EvaluationError: If Ray is not installed.
    """
    address = fields.pop("ray")
    given = {field: value for name, field in _FIELDS.items() if (value := fields.pop(name)) is not None}
    if address is None:
        if given:
            named = next(name for name, field in _FIELDS.items() if field in given).replace("_", "-")
            raise click.UsageError(f"--{named} is about workers on Ray: add --ray")
        return None
    from unicuco_plugin.executors.on_ray import RayWorkers, import_ray

    import_ray()  # now rather than when the model is loaded
    return RayWorkers(None if address == _LOCAL else address, **given)
