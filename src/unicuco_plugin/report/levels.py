"""A level database in words."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unicuco_plugin.escaping import escape_line
from unicuco_plugin.report.table import format_bytes, format_count, format_seconds, format_table

if TYPE_CHECKING:  # it brings torch with it
    from unicuco_plugin.levels.scheme_levels import SchemeLevels
    from unicuco_plugin.levels.store import Levels

__all__ = ["describe_levels", "levels_data"]


def levels_data(levels: "Levels | SchemeLevels") -> dict[str, Any]:
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
        "ratio": round(levels.bytes / (dense * record.settings.count), 4),
        **_by_level(levels),
        "by_magnitude": [name for name, entry in record.linears.items() if not entry.invertible],
        "seconds": record.seconds,
        "versions": record.versions,
    }


def _by_level(levels: "Levels | SchemeLevels") -> dict[str, Any]:
    record = levels.record
    if levels.kind == "sparsities":
        zeros = [entry.zeros for entry in record.linears.values()]
        return {"zeros": [sum(level) for level in zip(*zeros, strict=True)]}
    found: dict[str, dict[str, Any]] = {}
    for entry in record.linears.values():
        rows, columns = entry.shape
        for scheme in record.offered(entry):
            row = found.setdefault(scheme.name, {"linears": 0, "weights": 0, "bits": 0.0, "bytes": 0, "loss": 0.0})
            row["linears"] += 1
            row["weights"] += rows * columns
            row["bits"] += scheme.bits_per_weight(columns) * rows * columns
            row["bytes"] += scheme.stored_bytes(rows, columns, record.torch_dtype.itemsize)
            row["loss"] += entry.losses[scheme.name]
    for row in found.values():
        row["bits"] /= row["weights"]
    return {"schemes": dict(sorted(found.items(), key=lambda item: -item[1]["bits"]))}


def describe_levels(levels: "Levels | SchemeLevels") -> str:
    """Say what a database is for, how it was made, what it weighs, and what every level is."""
    data = levels_data(levels)
    calibration, settings = data["calibration"], levels.record.settings
    asked = settings.schemes or [f"{sparsity:g}" for sparsity in settings.sparsities]
    sources = f" from {', '.join(calibration['sources'])}" if calibration["sources"] else ""
    order = f", actorder {settings.actorder}" if settings.actorder else ""
    facts = [
        ("levels", data["folder"]),
        ("identity", data["identity"]),
        ("model", f"{data['model']['name']} ({data['model']['fingerprint']})"),
        ("linears", f"{data['linears']}, {format_count(data['weights'])} weights in {data['dtype']}"),
        (levels.kind, ", ".join(asked)),
        ("size", f"{format_bytes(data['bytes'])}, {data['ratio']:.3f} of {len(asked)} dense copies"),
        (
            "inputs",
            f"{settings.inputs}, damping {settings.damping:g}, blocks of {settings.block_size} columns{order}",
        ),
        (
            "calibration",
            f"{calibration['windows']} windows of {calibration['length']} tokens{sources}, hash {calibration['hash']}",
        ),
        ("seconds", f"{format_seconds(data['seconds'])} on {data['device']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in data["versions"].items())),
    ]
    if data["by_magnitude"]:
        way = "by magnitude" if levels.kind == "sparsities" else "rounded"
        facts.append((way, f"{', '.join(data['by_magnitude'])}: no inverse of their Hessians"))
    width = max(len(name) for name, _ in facts)
    lines = [escape_line(f"{name:<{width}}  {value}") for name, value in facts]
    return "\n".join([*lines, "", _table(data, asked)])


def _table(data: dict[str, Any], asked: Sequence[str]) -> str:
    if "schemes" not in data:
        shares = [
            (level, f"{zeros:,}", f"{zeros / data['weights']:.6f}")
            for level, zeros in zip(asked, data["zeros"], strict=True)
        ]
        return format_table(("level", "zeros", "share"), shares, right=(0, 1, 2))
    rows = [
        (name, f"{row['bits']:.3f}", str(row["linears"]), f"{row['bytes']:,}", f"{row['loss']:.6g}")
        for name, row in data["schemes"].items()
    ]
    return format_table(("scheme", "bits", "linears", "bytes", "loss"), rows, right=(1, 2, 3, 4))
