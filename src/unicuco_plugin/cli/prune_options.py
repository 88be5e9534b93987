"""Options of ``unicuco prune`` alone: peers that answer, and how a structured strategy is carried out."""

from pathlib import Path

import click

from unicuco_plugin.cli.options import Function, apply_options, device_table_option, vllm_python_option

__all__ = ["latency_options", "peer_options", "structured_options"]


def peer_options(function: Function) -> Function:
    """Add ``--peer`` and ``--evopress``, and what goes with them."""
    file = click.Path(path_type=Path)
    return apply_options(
        (
            click.option("--peer", help="Or: a method that we compare with (see unicuco plugins); with --sparsity."),
            click.option(
                "--space",
                help="For a peer that serves several spaces: sparsity, depth, sublayer or structured.",
            ),
            click.option(
                "--setting",
                type=click.Choice(["official", "super_fast"]),
                help="For evopress: how long and carefully it searches (official by default).",
            ),
            click.option("--token-budget", type=int, help="For evopress: the most evaluation tokens to spend."),
            click.option("--journal", type=file, help="For long-running peers: a file to resume from."),
            click.option(
                "--evopress",
                type=file,
                help="Or: EvoPress's layer_drop_config.txt, or its file of levels and, as --sparsity, their mean.",
            ),
            click.option("--step", type=int, help="Weights per level of that file.  [default: 1000000]"),
        ),
        function,
    )


def latency_options(function: Function) -> Function:
    """Add ``--device-table``, ``--verify-latency`` and ``--vllm-python``."""
    return apply_options(
        (
            device_table_option,
            vllm_python_option,
            click.option(
                "--verify-latency",
                is_flag=True,
                help="Time the finished checkpoint as a whole, as --device-table was measured; say how far the "
                "prediction was off, and write it into the table, whose later predictions are corrected by it.",
            ),
        ),
        function,
    )


def structured_options(function: Function) -> Function:
    """How a strategy of the space ``structured`` is carried out."""
    return apply_options(
        (
            click.option(
                "--format",
                type=click.Choice(["auto", "compact", "deci", "stock"]),
                help="For the space structured: compact (the default) is physically smaller; deci too, in the form "
                "that vLLM loads (Llama's mathematics alone), also for the space sublayer; auto takes deci where it is "
                "the smallest that vLLM loads; stock has zeros in the full shape, loads everywhere and is no smaller.",
            ),
            click.option(
                "--kept-parts",
                type=click.Path(path_type=Path),
                help="For the space structured: an export's structured.parts, instead of ranking parts.",
            ),
            click.option("--ranking", help="For the space structured: how to rank parts; see unicuco plugins."),
            click.option(
                "--compensate/--no-compensate",
                default=None,
                help="For the space structured: add the mean output of removed parts as biases (the default).",
            ),
        ),
        function,
    )
