"""A benchmark's result as Markdown; scores and spreads as in ``benchmark_lines``."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from unicuco_plugin.escaping import escape_markdown
from unicuco_plugin.report.benchmark_lines import Line, distinct, label_budget, lines_of, paired_error, total_seconds
from unicuco_plugin.report.table import format_count, format_seconds

__all__ = ["describe_benchmark"]

Label = Callable[[float], str]
# Shares further apart than this are reported. A choice: methods round to whole parts, which is no difference to report.
_APART = 0.002
# Largest number of requests at which a crossing point is of interest to anybody.
_MOST = 10_000


def describe_benchmark(result: Mapping[str, Any]) -> str:
    """Write a benchmark as Markdown: quality on every text, who is best, what it cost, what ablations change."""
    rows = result["rows"]
    lines, label = lines_of(rows, "methods"), partial(label_budget, result["space"])
    parts = [f"# {escape_markdown(result['model'])}, space {escape_markdown(result['space'])}", ""]
    for text in result["texts"]:
        parts += [f"## Divergence on {escape_markdown(text)}, nats per token", "", *_quality(lines, text, label), ""]
    parts += _reached(lines, label)
    if len({line.ours for line in lines}) == 2:
        parts += ["## Where a peer is better", "", *_losses(lines, label), ""]
    parts += ["## Cost", "", *_costs(lines, result), ""]
    for group in [name for name in distinct(rows, "group") if name != "methods"]:
        parts += [f"## Ablation: {escape_markdown(group)}", "", *_quality(lines_of(rows, group), None, label), ""]
    return "\n".join(parts)


def _quality(lines: Sequence[Line], text: str | None, label: Label) -> list[str]:
    """One row per method, one column per budget, the lowest of each bold; the mean over texts where none is named."""
    cells = {line.name: line.scores if text is None else line.texts[text] for line in lines}
    budgets = sorted({budget for found in cells.values() for budget in found})
    least = {b: min(found[b][0] for found in cells.values() if b in found) for b in budgets}
    table = ["| method | seeds | " + " | ".join(map(label, budgets)) + " |"]
    table += ["|---|---|" + "---:|" * len(budgets)]
    for line in lines:
        found = [cells[line.name].get(budget) for budget in budgets]
        shown = [_show(score, least[budget]) for budget, score in zip(budgets, found, strict=True)]
        table.append(f"| {escape_markdown(line.name)} | {line.seeds} | {' | '.join(shown)} |")
    return [*table, "", "± is one sample standard deviation over seeds; the lowest of each budget is bold."]


def _reached(lines: Sequence[Line], label: Label) -> list[str]:
    """Where methods removed different shares at one budget, and so do not quite compare: what each removed."""
    found = []
    for budget in sorted({budget for line in lines for budget in line.sparsity}):
        reached = {line.name: line.sparsity[budget] for line in lines if budget in line.sparsity}
        if max(reached.values()) - min(reached.values()) > _APART:
            listed = ", ".join(f"{escape_markdown(name)} {label(share)}" for name, share in reached.items())
            found.append(f"- At {label(budget)} methods reached different budgets: {listed}.")
    return [*found, ""] if found else []


def _show(score: tuple[float, float | None] | None, least: float) -> str:
    if score is None:
        return ""
    mean, spread = score
    text = f"{mean:.4f}" + ("" if spread is None else f" ± {spread:.4f}")
    return f"**{text}**" if mean == least else text


def _losses(lines: Sequence[Line], label: Label) -> list[str]:
    """Budgets at which a peer has the lower score than the best of ours, by how much, and whether that is noise."""
    ours, peers = [line for line in lines if line.ours], [line for line in lines if not line.ours]
    found = []
    for budget in sorted({budget for line in ours for budget in line.scores}):
        best = min((line for line in ours if budget in line.scores), key=lambda line: line.scores[budget][0])
        mine, spread = best.scores[budget]
        for peer in peers:
            theirs = peer.scores.get(budget, (math.inf, None))[0]
            if theirs < mine:
                within = " (within one deviation over seeds)" if spread is not None and mine - theirs <= spread else ""
                error = paired_error(best, peer, budget)
                noise = "" if error is None else f" ± {error / theirs:.1%} over windows"
                worse = f"{mine / theirs - 1:+.1%}{noise}{within}"
                names = escape_markdown(peer.name), escape_markdown(best.name)
                found.append(f"- {label(budget)}: {names[0]} {theirs:.4f}, {names[1]} {mine:.4f}, {worse}")
    return found or ["Nowhere, in the mean over texts."]


def _costs(lines: Sequence[Line], result: Mapping[str, Any]) -> list[str]:
    most, count = max(result["requests"]), len(result["budgets"])
    table = [f"| method | tokens, {count} budget{'s' if count > 1 else ''} | once | each request | {most} requests |"]
    table += ["|---|---:|---:|---:|---:|"]
    for line in lines:
        times = [_time(seconds) for seconds in (line.once, line.each, total_seconds(line, most))]
        name = escape_markdown(line.name)
        if line.extrapolated:
            name += " (time extrapolated to the whole search)"
        if len(line.scores) < count:
            name += f", {len(line.scores)} of the budgets"
        table.append(f"| {name} | {format_count(line.tokens)} | {' | '.join(times)} |")
    crossings = [
        f"- {escape_markdown(mine.name)} takes less time than {escape_markdown(peer.name)} from {first} "
        f"request{'s' if first > 1 else ''} on."
        for mine in lines
        for peer in lines
        if mine.ours and not peer.ours and (first := _crossing(mine, peer)) is not None
    ]
    note = f"Times of {most} requests are extrapolated from the mean of the measured budgets."
    return [*table, "", note, *([""] if crossings else []), *crossings]


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if 0 < seconds < 0.1 else format_seconds(seconds)


def _crossing(mine: Line, peer: Line) -> int | None:
    """The number of requests from which the first is cheaper; None where it never is."""
    gain = peer.each - mine.each
    if gain <= 0.0:
        return None
    count = max(1, math.floor((mine.once - peer.once) / gain) + 1)
    return count if count <= _MOST else None
