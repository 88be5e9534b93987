"""``unicuco strategy``: a profile's answer to one request, or to a file of them."""

from pathlib import Path
from typing import Any

import click

from unicuco_plugin.cli.options import (
    check_load,
    debug_option,
    device_table_option,
    json_option,
    read_request,
    request_options,
)
from unicuco_plugin.cli.output import say
from unicuco_plugin.report.front import describe_strategies
from unicuco_plugin.request_file import read_requests

__all__ = ["strategy"]


@click.command()
@click.argument("profile")
@request_options
@device_table_option
@click.option(
    "--request-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help='One JSON request per line, such as {"sparsity": 0.25}; all are answered together.',
)
@json_option
@debug_option
def strategy(
    profile: str,
    device_table: Path | None,
    request_file: Path | None,
    as_json: bool,
    **fields: Any,  # noqa: ANN401
) -> None:
    """Answer a request from PROFILE, a folder or the name of a packaged profile, in milliseconds.

    PROFILE may also be a folder of profiles of one model: the best of their answers is given, and says whose it is.
    Limits may be given together: all hold, and the rest is as good as it gets.
    """
    request = read_request(fields)
    if (request is None) == (request_file is None):
        raise click.UsageError("give one request (--sparsity, --max-params, …) or --request-file")
    requests = [request] if request is not None else read_requests(Path(str(request_file)).expanduser())
    check_load(device_table, *requests)
    from unicuco_plugin.answering import load_profile
    from unicuco_plugin.collection import is_collection, load_profiles

    read = load_profiles if is_collection(profile) else load_profile
    loaded = read(profile, device_table=device_table)
    answers = loaded.answer_many(requests)
    if as_json:
        for answer in answers:
            say(answer.to_json())
    else:
        say(describe_strategies(answers))
