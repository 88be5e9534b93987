"""A device's times in words."""

from collections.abc import Iterator, Sequence
from statistics import median

from unicuco_plugin.costs.device_table import DeviceTable
from unicuco_plugin.costs.timings import Observation
from unicuco_plugin.escaping import escape_line
from unicuco_plugin.quantities import Latency
from unicuco_plugin.report.table import format_ms, format_table

__all__ = ["describe_table", "describe_verified"]

_HEADER = ("phase", "batch", "context", "part", "modules", "parts left", "ms", "spread")


def describe_table(table: DeviceTable) -> str:
    """Say what was timed where, and what each whole module takes, with the least and the most that a round found."""
    device = table.device
    versions = ", ".join(f"{name} {number}" for name, number in device.versions.items())
    engine = device.engine + (", eager" if device.engine == "vllm" and device.eager else "")
    lines = [
        f"model    {table.model.name} ({table.model.fingerprint})",
        f"device   {device.name}, {device.kind}, {device.threads} threads, {device.dtype}, by {engine}, {versions}",
        "",
        format_table(_HEADER, list(_rows(table)), right=(1, 2, 4, 5, 6)),
    ]
    return "\n".join(map(escape_line, lines[:3])) + "\n" + lines[3]


def _rows(table: DeviceTable) -> Iterator[tuple[str, ...]]:
    counts = [sum(own == shape for own in table.modules.values()) for shape in range(len(table.shapes))]
    for point in table.points:
        load = point.phase, str(point.batch), str(point.context)
        for shape, count, row in zip(table.shapes, counts, point.times, strict=True):
            for width, samples in zip(shape.widths, row, strict=True):
                yield (*load, shape.kind, str(count), f"{width} of {shape.widths[-1]}", *_times(samples))
        for kind, gained in zip(table.stored, point.saved, strict=True):
            part = f"{kind.units[0].rpartition('.')[2]}, {kind.scheme}"
            yield (*load, part, str(len(kind.units)), "saved by each", *_times(gained))
        yield (*load, "the rest", "", "", *_times(point.rest))
        whole, _ = table.at(point.phase, point.batch, point.context)
        yield (*load, "dense model", "", "", format_ms(whole), "")


def _times(samples: Sequence[float]) -> tuple[str, str]:
    return format_ms(median(samples)), f"{format_ms(min(samples))} to {format_ms(max(samples))}"


def describe_verified(observed: Sequence[Observation], latency: Latency) -> str:
    """Say what was predicted, corrections included, and measured of a checkpoint, also beside the dense model."""
    lines = []
    for one in observed:
        said, dense = (getattr(latency, f"{which}{one.phase}") for which in ("", "dense_"))
        lines.append(
            f"{one.phase:<11} predicted {format_ms(said)} ms, measured {format_ms(one.measured)} ms, where the dense "
            f"model takes {format_ms(one.dense_measured)}: predicted {dense / said:.3f} times as fast, measured "
            f"{one.dense_measured / one.measured:.3f}"
        )
    return "\n".join(lines)
