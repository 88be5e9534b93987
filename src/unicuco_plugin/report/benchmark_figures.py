"""A benchmark's pictures, one message each."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unicuco_plugin.escaping import escape_picture
from unicuco_plugin.report.axes import add_legend, new_axes, scale_plainly, write_plainly
from unicuco_plugin.report.benchmark_lines import Line, label_budget, lines_of, total_seconds
from unicuco_plugin.report.figure import COLOURS, MARKERS, save_figure
from unicuco_plugin.report.table import format_count
from unicuco_plugin.traits import traits_of

__all__ = ["draw_benchmark"]

# Where an axis of seconds has its ticks.
_TIMES = {
    **{1e-4: "0.1 ms", 1e-3: "1 ms", 1e-2: "10 ms", 0.1: "0.1 s", 1.0: "1 s", 10.0: "10 s", 60.0: "1 min"},
    **{600.0: "10 min", 3600.0: "1 h", 36_000.0: "10 h", 360_000.0: "100 h", 3_600_000.0: "1 000 h"},
}
# How much of the room between two budgets their variants take, so that groups stay apart.
_GROUP = 0.6
_SPARSITY = "sparsity (share of prunable weights removed)"
_BITS = "mean bits of a weight, scales counted"
_DIVERGENCE = "divergence from the dense model (nats per token)"


def draw_benchmark(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw quality against budget, quality against tokens, time against requests, and every ablation.

    Args:
        result: What ``run_benchmark`` returned.
        folder: Where to write ``quality.png``, ``tokens.png``, ``requests.png`` and ``ablation-NAME.png``.

    Returns:
        The files.

    Raises:
        ExportError: If a file cannot be written.
    """
    lines = lines_of(result["rows"], "methods")
    pictures = {
        "quality": _quality(
            lines,
            f"Quality at each budget ({escape_picture(result['model'])}, {escape_picture(result['space'])})",
            result["space"],
        ),
        "tokens": _tokens(lines, len(result["budgets"])),
        "requests": _requests(lines, result["requests"], len(result["budgets"])),
    }
    for group in dict.fromkeys(row["group"] for row in result["rows"] if row["group"] != "methods"):
        pictures[f"ablation-{group}"] = _ablation(
            lines_of(result["rows"], group), f"Ablation of the training: {escape_picture(group)}", result["space"]
        )
    paths = [folder / f"{name}.png" for name in pictures]
    for path, figure in zip(paths, pictures.values(), strict=True):
        save_figure(figure, path)
    return paths


def _quality(lines: Sequence[Line], title: str, space: str) -> Any:  # noqa: ANN401 - matplotlib is untyped
    figure, axes = new_axes(8, 4.8, title)
    for line, style in zip(lines, _styles(len(lines)), strict=True):
        means = [mean for mean, _ in line.scores.values()]
        spreads = [spread or 0.0 for _, spread in line.scores.values()]
        # A lower end at or below 0 has no place on a logarithmic axis.
        below = [min(spread, 0.99 * mean) for mean, spread in zip(means, spreads, strict=True)]
        axes.errorbar(list(line.scores), means, yerr=[below, spreads], capsize=2, label=_label(line), **style)
    scale_plainly(axes)
    budgets = sorted({budget for line in lines for budget in line.scores})
    axes.set_xticks(budgets, [label_budget(space, budget) for budget in budgets] if traits_of(space).stores else None)
    axes.set_xlabel(_BITS if traits_of(space).stores else _SPARSITY)
    axes.set_ylabel(f"{_DIVERGENCE},\nmean over texts; bars: deviation over seeds")
    add_legend(figure, axes)
    return figure


def _ablation(lines: Sequence[Line], title: str, space: str) -> Any:  # noqa: ANN401
    """Ratios to the first variant side by side: divergences themselves would lie on top of each other."""
    figure, axes = new_axes(8, 4.8, title)
    budgets = sorted(lines[0].scores)
    first = {budget: max(mean, 1e-12) for budget, (mean, _) in lines[0].scores.items()}
    for place, (line, style) in enumerate(zip(lines, _styles(len(lines)), strict=True)):
        shift = _GROUP * ((place + 0.5) / len(lines) - 0.5)
        ratios = [line.scores[budget][0] / first[budget] for budget in budgets]
        spreads = [(line.scores[budget][1] or 0.0) / first[budget] for budget in budgets]
        where = [at + shift for at in range(len(budgets))]
        axes.errorbar(where, ratios, yerr=spreads, capsize=2, label=_label(line), **(style | {"linestyle": "none"}))
    axes.axhline(1.0, color="#999999", linewidth=0.8, zorder=0)
    axes.set_xticks(range(len(budgets)), [label_budget(space, budget) for budget in budgets])
    axes.set_xlabel(_BITS if traits_of(space).stores else _SPARSITY)
    axes.set_ylabel(
        f"divergence / that of '{escape_picture(lines[0].name)}', mean over texts\n"
        "(lower is better; bars: deviation over seeds)"
    )
    add_legend(figure, axes)
    return figure


def _tokens(lines: Sequence[Line], budgets: int) -> Any:  # noqa: ANN401
    """Quality as the geometric mean over budgets of the ratio to the best there; of methods that answered all."""
    figure, axes = new_axes(8, 4.8, "What the tokens of a method buy")
    lines = [line for line in lines if len(line.scores) == budgets] or lines
    least = {b: min(line.scores[b][0] for line in lines if b in line.scores) for line in lines for b in line.scores}
    for line, style in zip(lines, _styles(len(lines)), strict=True):
        logs = [math.log(max(mean, 1e-12) / max(least[b], 1e-12)) for b, (mean, _) in line.scores.items()]
        axes.plot(
            [line.tokens], [math.exp(math.fsum(logs) / len(logs))], label=_label(line), **(style | {"markersize": 8})
        )
    if all(line.tokens > 0 for line in lines):
        axes.set_xscale("log")
    else:  # a method that reads no text stands at 0
        axes.set_xscale("symlog", linthresh=min((line.tokens for line in lines if line.tokens > 0), default=1.0))
    scale_plainly(axes)
    write_plainly(axes.xaxis, (1.0, 2.0, 5.0), lambda value: format_count(value).replace(".0 ", " "))
    axes.set_xlabel(f"evaluation tokens spent, one answer at each of {budgets} budgets")
    axes.set_ylabel("divergence / the lowest of all methods\n(geometric mean over budgets; lower is better)")
    add_legend(figure, axes)
    return figure


def _requests(lines: Sequence[Line], requests: Sequence[int], budgets: int) -> Any:  # noqa: ANN401
    figure, axes = new_axes(8, 4.8, "Time for many requests about one model")
    for line, style in zip(lines, _styles(len(lines)), strict=True):
        name = f"{_label(line)},\nextrapolated to the whole search" if line.extrapolated else _label(line)
        axes.plot(requests, [total_seconds(line, count) for count in requests], label=name, **style)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    shown = {seconds: name for seconds, name in _TIMES.items() if low <= seconds <= high}
    axes.set_yticks(list(shown), list(shown.values()))
    axes.minorticks_off()
    axes.set_xticks(list(requests), [str(count) for count in requests])
    axes.set_xlabel(f"requests (mean of {budgets} measured budgets, extrapolated)")
    axes.set_ylabel("total time")
    add_legend(figure, axes)
    return figure


def _styles(count: int) -> list[dict[str, Any]]:
    """Colour, marker and dashes, no two alike."""
    dashes = ("-", "--", ":")
    return [
        {
            "color": COLOURS[place % len(COLOURS)],
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": dashes[place // len(COLOURS) % len(dashes)],
            "linewidth": 1.2,
            "markersize": 5,
        }
        for place in range(count)
    ]


def _label(line: Line) -> str:
    """A method's name, what stands in brackets behind it on a line of its own."""
    return escape_picture(line.name).replace(" (", "\n(")
