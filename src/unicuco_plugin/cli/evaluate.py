"""``unicuco evaluate``: perplexity and divergence on text, accuracy on zero-shot tasks."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unicuco_plugin.cli.options import debug_option, json_option, model_options, window_options
from unicuco_plugin.cli.output import say
from unicuco_plugin.cli.progress import ProgressBars
from unicuco_plugin.files.json_text import json_text
from unicuco_plugin.progress import Progress
from unicuco_plugin.report.comparison import comparison_data, describe_comparisons
from unicuco_plugin.report.tasks import describe_tasks, task_data

if TYPE_CHECKING:  # slow to import
    from unicuco_plugin.evaluation.tasks import TaskComparison
    from unicuco_plugin.models.loading import Tokenizer

__all__ = ["evaluate"]


@click.command()
@click.argument("text", nargs=-1, metavar="[TEXT...]")
@click.option("--model", required=True, help="The dense model: a folder, or a name on the hub.")
@click.option("--pruned", help="The pruned model's folder; without it the dense model is evaluated alone.")
@window_options("--windows", 16, 512)
@click.option("--split", default="train", show_default=True, help="Which split, if TEXT is a dataset.")
@click.option("--tasks", metavar="NAME,NAME,...", help="Zero-shot tasks or groups of tasks, by lm-eval (extra [eval]).")
@click.option(
    "--include-path", type=click.Path(path_type=Path), help="A folder with tasks of your own, as lm-eval reads them."
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first documents of each task, at most this many.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Sequences of a task run together.",
)
@model_options
@json_option
@debug_option
def evaluate(text: tuple[str, ...], as_json: bool, **fields: Any) -> None:  # noqa: ANN401
    """Evaluate a model, alone or beside a pruned one, on windows of each TEXT, on zero-shot tasks, or both.

    TEXT is text, JSONL or a dataset. Perplexity is exp of the mean negative log-likelihood; divergence is
    KL(dense‖pruned) in nats per token. Both come with standard errors over windows. Tasks come with standard errors
    over documents, and their differences with those of a paired comparison.
    """
    tasks = [name.strip() for name in (fields["tasks"] or "").split(",") if name.strip()]
    if not text and not tasks:
        raise click.UsageError("give TEXT, --tasks or both")
    from unicuco_plugin.evaluation.comparison import compare_models
    from unicuco_plugin.evaluation.tasks import find_tasks
    from unicuco_plugin.models.loading import find_model, load_model, load_tokenizer
    from unicuco_plugin.models.reach import load_reach
    from unicuco_plugin.texts.calibration import load_windows

    hub = {"revision": fields["revision"], "trust_remote_code": fields["trust_remote_code"]}
    place = {**{name: fields[name] for name in ("dtype", "device", "offload")}, "tell": partial(say, err=True)}
    code = {"trust_remote_code": fields["trust_remote_code"]}
    # Tasks, texts and the pruned model's folder are checked before a weight is read.
    manager = find_tasks(tasks, fields["include_path"]) if tasks else None
    tokenizer = load_tokenizer(fields["model"], **hub)
    if fields["pruned"] is not None:
        find_model(fields["pruned"], **code)
    cut = {"count": fields["windows"], "length": fields["seq_length"], "seed": fields["seed"], "split": fields["split"]}
    reach = load_reach(fields["model"], **hub) if text else None
    windows = {name: load_windows([name], tokenizer, **cut, reach=reach) for name in text}
    dense = load_model(fields["model"], **hub, **place)
    pruned = None if fields["pruned"] is None else load_model(fields["pruned"], **code, **place, prunable=False)
    rows = _run_tasks(tasks, manager, (dense, pruned), tokenizer, fields) if tasks else []
    results, total, before = {}, sum(map(len, windows.values())), 0
    with ProgressBars("windows") as bars:
        for name, ids in windows.items():
            results[name] = compare_models(dense, pruned, ids, report=partial(_tell, bars, name, before, total))
            before += len(ids)
    if not as_json:
        parts = [describe_comparisons(results)] if results else []
        say("\n\n".join([*parts, *([describe_tasks(rows)] if rows else [])]))
        return
    settings = {name: fields[name] for name in ("model", "pruned", "windows", "seq_length", "seed")}
    texts = {name: comparison_data(result) for name, result in results.items()}
    asked = {"tasks": task_data(rows), "limit": fields["limit"]} if tasks else {}
    say(json_text(settings | {"texts": texts} | asked))


def _tell(bars: ProgressBars, name: str, before: int, total: int, done: int) -> None:
    bars(Progress(f"evaluating on {Path(name).name}", before + done, total))


def _run_tasks(
    tasks: list[str],
    manager: Any,  # noqa: ANN401
    models: tuple[Any, Any],
    tokenizer: "Tokenizer",
    fields: dict[str, Any],
) -> "list[TaskComparison]":
    """Both models on the same documents, and the mean over tasks."""
    from unicuco_plugin.evaluation.tasks import compare_tasks, mean_of_tasks, run_tasks

    options = {name: fields[name] for name in ("limit", "batch_size")}
    dense, *pruned = [run_tasks(model, tokenizer, tasks, manager, **options) for model in models if model is not None]
    rows = compare_tasks(dense, *pruned)
    return rows + mean_of_tasks(rows)
