"""``unicuco evaluate``: perplexity and divergence on text files."""

import json
from typing import Any

import click

from unicuco_plugin.cli.options import debug_option, json_option, model_options, window_options
from unicuco_plugin.report.comparison import comparison_data, describe_comparisons

__all__ = ["evaluate"]


@click.command()
@click.argument("text", nargs=-1, required=True, metavar="TEXT...")
@click.option("--model", required=True, help="The dense model: a folder, or a name on the hub.")
@click.option("--pruned", help="The pruned model's folder; without it the dense model is evaluated alone.")
@window_options("--windows", 16, 512)
@click.option("--split", default="train", show_default=True, help="Which split, where TEXT is a dataset.")
@model_options
@json_option
@debug_option
def evaluate(text: tuple[str, ...], as_json: bool, **fields: Any) -> None:  # noqa: ANN401
    """Evaluate a model, or a pruned one beside it, on windows of each TEXT (text, JSONL or a dataset).

    Perplexity is exp of the mean negative log-likelihood; divergence is KL(dense‖pruned) in nats per token. Both come
    with standard errors over windows.
    """
    from unicuco_plugin.models.calibration import load_windows
    from unicuco_plugin.models.loading import load_config, load_model, load_tokenizer
    from unicuco_plugin.objectives.comparison import compare_models

    hub = {"revision": fields["revision"], "trust_remote_code": fields["trust_remote_code"]}
    place = {"dtype": fields["dtype"], "device": fields["device"]}
    code = {"trust_remote_code": fields["trust_remote_code"]}
    # Texts and the pruned model's folder are checked before a weight is read.
    tokenizer = load_tokenizer(fields["model"], **hub)
    if fields["pruned"] is not None:
        load_config(fields["pruned"], **code)
    cut = {"count": fields["windows"], "length": fields["seq_length"], "seed": fields["seed"], "split": fields["split"]}
    windows = {name: load_windows([name], tokenizer, **cut) for name in text}
    dense = load_model(fields["model"], **hub, **place)
    pruned = None if fields["pruned"] is None else load_model(fields["pruned"], **code, **place)
    results = {name: compare_models(dense, pruned, ids) for name, ids in windows.items()}
    if not as_json:
        click.echo(describe_comparisons(results))
        return
    settings = {name: fields[name] for name in ("model", "pruned", "windows", "seq_length", "seed")}
    texts = {name: comparison_data(result) for name, result in results.items()}
    click.echo(json.dumps(settings | {"texts": texts}, ensure_ascii=False))
