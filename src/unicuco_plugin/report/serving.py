"""A verdict on a checkpoint, for people and for machines."""

from typing import TYPE_CHECKING, Any

from unicuco_plugin.escaping import escape_line
from unicuco_plugin.report.table import format_table

if TYPE_CHECKING:  # it brings torch with it
    from unicuco_plugin.serving.verdict import Verdict

__all__ = ["SCHEMA", "describe_verdict", "verdict_data"]

# Of the JSON; a field that changes its meaning or goes makes another number.
SCHEMA = 1
_SERVER = "vLLM 0.32"


def describe_verdict(name: str, verdict: "Verdict") -> str:
    """The verdict in one line, a line for each finding, and a table of schemes and kernels."""
    lines = [f"{name}: {_say(verdict)}"]
    lines += [f"{entry.severity}: {entry.where}: {entry.message} [{entry.rule}]" for entry in verdict.findings]
    lines = [escape_line(line) for line in lines]  # names are whoever sent the file's
    if verdict.rows:
        header = ["scheme", "linears", *(device.label for device in verdict.devices)]
        rows = [
            [row.scheme, f"{row.linears:,}" if verdict.model else "?", *map(_say_kernel, row.kernels)]
            for row in verdict.rows
        ]
        lines += ["", format_table(header, rows, right=[1])]
    return "\n".join(lines)


def verdict_data(name: str, verdict: "Verdict") -> dict[str, Any]:
    """The same as JSON data, under a schema number."""
    devices = [device.label for device in verdict.devices]
    return {
        "schema": SCHEMA,
        "checkpoint": name,
        "server": _SERVER,
        "loads": verdict.loads,
        "quantised": verdict.quantised,
        "checked": {"configuration": verdict.quantised, "model": verdict.model, "files": verdict.files},
        "findings": [entry.to_dict() for entry in verdict.findings],
        "schemes": [
            {
                "scheme": row.scheme,
                "linears": row.linears if verdict.model else None,
                "kernels": {device: kernel or None for device, kernel in zip(devices, row.kernels, strict=True)},
            }
            for row in verdict.rows
        ],
    }


def _say(verdict: "Verdict") -> str:
    if not verdict.quantised:
        return f"is not quantised: {_SERVER} loads it as any checkpoint of its family"
    seen = (
        "" if verdict.files else ", by its configuration alone" if not verdict.model else ", without its weight files"
    )
    if verdict.loads:
        return f"{_SERVER} loads it{seen}"
    if any(entry.outcome == "silent" for entry in verdict.errors):
        return f"{_SERVER} would load another model without a word{seen}"
    return f"{_SERVER} does not load it{seen}"


def _say_kernel(kernel: str | None) -> str:
    return "" if kernel is None else kernel or "none"
