"""``unicuco benchmark``: methods compared on one model, from a YAML file to tables and pictures."""

import shlex
from pathlib import Path
from typing import Any

import click

from unicuco_plugin.cli.options import debug_option, place_options
from unicuco_plugin.cli.output import say
from unicuco_plugin.cli.progress import ProgressBars
from unicuco_plugin.cli.ray_options import ray_options, ray_words, read_workers
from unicuco_plugin.errors import ExportError
from unicuco_plugin.files.draft import remove_drafts, write_whole
from unicuco_plugin.files.json_text import json_text
from unicuco_plugin.ownership import claim

__all__ = ["benchmark"]

_TEXTS = ("results.json", "results.md")


@click.command()
@click.argument("plan", type=click.Path(path_type=Path), metavar="FILE.yaml")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The folder for everything it makes.")
@click.option("--trust-remote-code", is_flag=True, help="Let code in the model's own repository run.")
@place_options(plan=True)
@ray_options
@debug_option
def benchmark(plan: Path, output: Path, trust_remote_code: bool, **place: Any) -> None:  # noqa: ANN401 - one per option
    """Compare methods: run FILE.yaml's methods at its budgets and seeds, and write tables and pictures.

    Every result is kept at once. After Ctrl-C, or anything worse, the same command continues from there, and does
    again only what has changed in the YAML. Where the model is may stand in the YAML, too. With --ray, each method and
    seed is a worker's.
    """
    ray = ray_words(place)
    workers = read_workers(place)
    from unicuco_plugin.benchmark.plan import read_plan
    from unicuco_plugin.benchmark.provenance import provenance
    from unicuco_plugin.benchmark.run import run_benchmark
    from unicuco_plugin.report.benchmark import describe_benchmark
    from unicuco_plugin.report.benchmark_figures import draw_benchmark

    read = read_plan(plan)
    given = {field: value for field, value in place.items() if value is not None}
    read = read.model_copy(update=given)
    output = output.expanduser()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"output {output} must be a folder: {error.strerror}") from error
    claim(output, _TEXTS)
    remove_drafts(output)
    try:
        with ProgressBars("answers") as bars:
            result = run_benchmark(read, output, bars, trust_remote_code=trust_remote_code, workers=workers)
            bars.finish()
    except KeyboardInterrupt:
        say(f"\nstopped; {output} keeps what is done, go on with the same command", err=True)
        raise
    text = describe_benchmark(result)
    options = [word for field, value in given.items() for word in (f"--{field}", value)]
    command = shlex.join(["unicuco", "benchmark", str(plan), "--output", str(output), *options, *ray])
    made = provenance(command, result["device"])
    record = made | result | {"plan": read.model_dump(mode="json")}
    for name, content in zip(_TEXTS, (json_text(record, indent=1, ascii_only=True), text), strict=True):
        write_whole(output / name, f"{content}\n".encode())
    pictures = draw_benchmark(result, output)
    say(text)
    say(f"written to {output}: results.json, results.md, {', '.join(path.name for path in pictures)}")
