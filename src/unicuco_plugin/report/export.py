"""A finished checkpoint in words."""

import json
from typing import TYPE_CHECKING

from unicuco_plugin.report.front import describe_divergence, list_units
from unicuco_plugin.report.table import format_bytes, format_count, format_seconds

if TYPE_CHECKING:  # it brings the toolkit with it
    from unicuco_plugin.modifiers.oneshot import Export

__all__ = ["describe_export", "export_data"]


def describe_export(export: "Export") -> str:
    """Say what was removed, what that is known to cost, and how large the checkpoint is."""
    lines = []
    for strategy in export.strategies:
        divergence = strategy.divergence
        low, high = divergence.interval90
        lines.append(f"removed     {list_units(strategy.units)} (sparsity {strategy.sparsity:.4f})")
        lines.append(
            f"divergence  {divergence.mean:.4f} nats/token, 90 % interval {low:.4f} to {high:.4f}, "
            f"{describe_divergence(divergence)}"
        )
    size = f"{format_count(export.params)} parameters, {format_bytes(export.bytes)}"
    lines.append(f"checkpoint  {export.path}: {size}, in {format_seconds(export.seconds)}")
    return "\n".join(lines)


def export_data(export: "Export") -> str:
    """The same as one line of JSON."""
    data = {
        "path": str(export.path),
        "params": export.params,
        "bytes": export.bytes,
        "seconds": round(export.seconds, 3),
        "strategies": [strategy.to_dict() for strategy in export.strategies],
    }
    return json.dumps(data, ensure_ascii=False)
