"""A level database in words."""

from typing import TYPE_CHECKING, Any

from unicuco_plugin.escaping import escape_line
from unicuco_plugin.report.table import format_bytes, format_count, format_seconds, format_table

if TYPE_CHECKING:  # it brings torch with it
    from unicuco_plugin.levels.store import Levels

__all__ = ["describe_levels", "levels_data"]


def levels_data(levels: "Levels") -> dict[str, Any]:
    """What a database holds and how it was made, as JSON data."""
    record = levels.record
    weights = sum(levels.sizes.values())
    dense = weights * levels.weight_bytes
    return {
        "folder": str(levels.folder),
        "model": record.model.model_dump(mode="json"),
        "dtype": record.dtype,
        "device": record.device,
        "settings": record.settings.model_dump(mode="json"),
        "identity": record.identity,
        "calibration": record.calibration.model_dump(mode="json"),
        "linears": len(record.linears),
        "weights": weights,
        "bytes": levels.bytes,
        "ratio": round(levels.bytes / (dense * len(levels.sparsities)), 4),
        "zeros": [
            sum(entry.zeros[level] for entry in record.linears.values()) for level in range(len(levels.sparsities))
        ],
        "by_magnitude": [name for name, entry in record.linears.items() if not entry.invertible],
        "seconds": record.seconds,
        "versions": record.versions,
    }


def describe_levels(levels: "Levels") -> str:
    """Say what a database is for, how it was made, what it weighs, and the zeros of every level."""
    data = levels_data(levels)
    calibration, settings = data["calibration"], data["settings"]
    ladder = levels.sparsities
    sources = f" from {', '.join(calibration['sources'])}" if calibration["sources"] else ""
    facts = [
        ("levels", data["folder"]),
        ("identity", data["identity"]),
        ("model", f"{data['model']['name']} ({data['model']['fingerprint']})"),
        ("linears", f"{data['linears']}, {format_count(data['weights'])} weights in {data['dtype']}"),
        ("sparsities", ", ".join(f"{sparsity:g}" for sparsity in ladder)),
        ("size", f"{format_bytes(data['bytes'])}, {data['ratio']:.3f} of {len(ladder)} dense copies"),
        (
            "inputs",
            f"{settings['inputs']}, damping {settings['damping']:g}, blocks of {settings['block_size']} columns",
        ),
        (
            "calibration",
            f"{calibration['windows']} windows of {calibration['length']} tokens{sources}, hash {calibration['hash']}",
        ),
        ("seconds", f"{format_seconds(data['seconds'])} on {data['device']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in data["versions"].items())),
    ]
    if data["by_magnitude"]:
        facts.append(("by magnitude", f"{', '.join(data['by_magnitude'])}: no inverse of their Hessians"))
    width = max(len(name) for name, _ in facts)
    lines = [escape_line(f"{name:<{width}}  {value}") for name, value in facts]
    rows = [
        (f"{sparsity:g}", f"{zeros:,}", f"{zeros / data['weights']:.6f}")
        for sparsity, zeros in zip(ladder, data["zeros"], strict=True)
    ]
    return "\n".join([*lines, "", format_table(("level", "zeros", "share"), rows, right=(0, 1, 2))])
