"""A finished checkpoint in words."""

from typing import TYPE_CHECKING

from unicuco_plugin.escaping import escape_line
from unicuco_plugin.files.json_text import json_text
from unicuco_plugin.quantities import Latency
from unicuco_plugin.report.front import describe_divergence, list_schemes, list_units
from unicuco_plugin.report.table import format_bytes, format_count, format_ms, format_seconds
from unicuco_plugin.strategy import Strategy

if TYPE_CHECKING:  # it brings the toolkit with it
    from unicuco_plugin.modifiers.export.result import Export

__all__ = ["describe_export", "export_data"]

_FORMATS = {
    "compact": "compact: blocks differ in size; load with unicuco_plugin.load, or trust_remote_code=True",
    "deci": "deci: blocks differ in size; vLLM loads it with --trust-remote-code, Transformers with "
    "trust_remote_code=True",
    "plain": "plain: all blocks have one size; a stock checkpoint",
    "stock": "stock: removed parts are zeros in the full shape; loads everywhere, no smaller and no faster",
}


def describe_export(export: "Export") -> str:
    """Say what was removed, what that is known to cost, and how large the checkpoint is."""
    lines = []
    for strategy in export.strategies:
        lines += [_say_pruned(strategy), _say_divergence(strategy)]
        lines += [_say_latency(strategy.latency)] if strategy.latency else []
    if export.divergence_note:
        lines.append(f"            {export.divergence_note}")
    if export.achieved is not None:
        achieved, worst = export.achieved, export.achieved.worst
        zeros, linears = achieved.total("exported"), len(achieved.linears)
        lines.append(
            f"zeros       {zeros:,} of {achieved.weights:,} weights ({zeros / achieved.weights:.4f}), by "
            f"{achieved.engine} in {linears} linears, which have {achieved.coverage:.1%} of the weights of the blocks; "
            f"furthest from its plan {worst.name}, by {abs(worst.error):.2g} of its weights"
        )
    if export.format != "deci":
        lines += [_say_silent(len(strategy.silenced)) for strategy in export.strategies if strategy.silenced]
    if export.format:
        lines.append(f"format      {_FORMATS[export.format]}")
    lines += [f"note        {note}" for note in export.notes]
    size = f"{format_count(export.params)} parameters, {format_bytes(export.bytes)}"
    lines.append(f"checkpoint  {export.path}: {size}, in {format_seconds(export.seconds)}")
    return "\n".join(map(escape_line, lines))


def export_data(export: "Export") -> str:
    """The same as one line of JSON."""
    data = {
        "path": str(export.path),
        "params": export.params,
        "bytes": export.bytes,
        "seconds": round(export.seconds, 3),
        "strategies": [strategy.to_dict() for strategy in export.strategies],
        "caveat": export.divergence_note,
        "format": export.format or None,
        "layout": export.format or None,  # the key of older versions
        "notes": list(export.notes),
        "silenced": [name for strategy in export.strategies for name in strategy.silenced],
    }
    if export.achieved is not None:
        data["achieved"] = export.achieved.to_dict()
    return json_text(data)


def _say_silent(count: int) -> str:
    return f"silenced    {count} sub-layers by a zero output projection, which saves no bytes: their blocks stay"


def _say_latency(latency: Latency) -> str:
    token, prompt = latency.dense_decode / latency.decode, latency.dense_prefill / latency.prefill
    return (
        f"time        {format_ms(latency.decode)} ms for one more token, {token:.3f} times as fast as dense; "
        f"{format_ms(latency.prefill)} ms for the prompt, {prompt:.3f} times; predicted for {latency.device}"
    )


def _say_divergence(strategy: Strategy) -> str:
    divergence = strategy.divergence
    if divergence is None:
        return f"divergence  unknown: {strategy.peer or 'the file'} gives none; unicuco evaluate measures it"
    low, high = divergence.interval90
    return (
        f"divergence  {divergence.mean:.4f} nats/token, 90 % interval {low:.4f} to {high:.4f}, "
        f"{describe_divergence(divergence)}"
    )


def _say_pruned(strategy: Strategy) -> str:
    share = f"(sparsity {strategy.sparsity:.4f}"
    if strategy.traits.stores:
        gone = f"; removed {list_units(strategy.shares)}" if strategy.shares else ""
        return f"stored      {list_schemes(strategy.schemes)} (mean bits {strategy.bits:.4f}){gone}"
    if not strategy.traits.zeroes:
        return f"removed     {list_units(strategy.shares)} {share})"
    shares = strategy.shares.values()
    least, most = min(shares), max(shares)
    return f"zeroed      {len(shares)} units by {least:.4f} to {most:.4f} of their weights {share} of the dense model)"
