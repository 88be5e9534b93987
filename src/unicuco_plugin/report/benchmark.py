"""A benchmark's rows summed up, as numbers and as Markdown.

A *score* is the mean divergence over texts, nats per token; of a method with several seeds the mean over seeds, its
*spread* the sample standard deviation over seeds.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unicuco_plugin.report.table import format_count, format_seconds

__all__ = ["Line", "describe_benchmark", "lines_of", "total_seconds"]

Row = Mapping[str, Any]
# Shares further apart than this are told.
_APART = 0.002
# Largest number of requests that a crossing point is looked for at.
_MOST = 10_000


@dataclass(frozen=True)
class Line:
    """What one method did.

    Attributes:
        name: Of the method, or of an ablation's variant.
        ours: Whether a profile answered.
        seeds: How many.
        scores: Budget → score and spread; the spread is None for one seed.
        texts: Text → the same.
        sparsity: Budget → what the answers removed, mean over seeds.
        tokens: Evaluation tokens for one answer at every budget, mean over seeds.
        once: Seconds spent once for all requests; 0 for a method that starts anew for each.
        each: Mean seconds of one request more.
        extrapolated: Whether those are of searches that were broken off and would have gone on at the same pace.
    """

    name: str
    ours: bool
    seeds: int
    scores: dict[float, tuple[float, float | None]]
    texts: dict[str, dict[float, tuple[float, float | None]]]
    sparsity: dict[float, float]
    tokens: float
    once: float
    each: float
    extrapolated: bool = False


def lines_of(rows: Sequence[Row], group: str) -> list[Line]:
    """Sum up one group's rows, in their order."""
    chosen = [row for row in rows if row["group"] == group]
    return [_line(name, [row for row in chosen if row["method"] == name]) for name in _distinct(chosen, "method")]


def total_seconds(line: Line, requests: int) -> float:
    """Seconds for so many requests, at the mean of the measured budgets."""
    return line.once + requests * line.each


def describe_benchmark(result: Mapping[str, Any]) -> str:
    """Write a benchmark as Markdown: quality on every text, who is best, what it cost, what ablations change."""
    rows = result["rows"]
    lines = lines_of(rows, "methods")
    parts = [f"# {result['model']}, space {result['space']}", ""]
    for text in result["texts"]:
        parts += [f"## Divergence on {text}, nats per token", "", *_quality(lines, text), ""]
    parts += _reached(lines)
    parts += ["## Where a peer is better", "", *_losses(lines), "", "## Cost", "", *_costs(lines, result), ""]
    for group in [name for name in _distinct(rows, "group") if name != "methods"]:
        parts += [f"## Ablation: {group}", "", *_quality(lines_of(rows, group), None), ""]
    return "\n".join(parts)


def _line(name: str, rows: Sequence[Row]) -> Line:
    seeds, budgets = _distinct(rows, "seed"), sorted(_distinct(rows, "budget"))
    texts = list(rows[0]["divergence"])
    by_text = {text: {b: _spread([_value(row, [text]) for row in _at(rows, b)]) for b in budgets} for text in texts}
    shared = bool(rows[0]["shared"])
    per_seed = [[row for row in rows if row["seed"] == seed] for seed in seeds]
    together = max if shared else sum
    seconds = statistics.fmean(together(_whole(row) for row in same) for same in per_seed)
    return Line(
        name=name + _broken_off(rows),
        ours="answer_seconds" in rows[0],
        seeds=len(seeds),
        scores={b: _spread([_value(row, texts) for row in _at(rows, b)]) for b in budgets},
        texts=by_text,
        sparsity={b: statistics.fmean(row["sparsity"] for row in _at(rows, b)) for b in budgets},
        tokens=statistics.fmean(together(row["tokens"] for row in same) for same in per_seed),
        once=seconds if shared else 0.0,
        each=statistics.fmean(row.get("answer_seconds", 0.0) for row in rows) if shared else seconds / len(budgets),
        extrapolated=any("whole_seconds" in row for row in rows),
    )


def _broken_off(rows: Sequence[Row]) -> str:
    """How much of their searches methods did, behind their name: what follows is of that much."""
    counts = [row["generations"] for row in rows if "generations" in row]
    if not counts:
        return ""
    done, total = ([pair[place] for pair in counts] for place in (0, 1))
    span = [str(min(n)) if min(n) == max(n) else f"{min(n)} to {max(n)}" for n in (done, total)]
    return f" ({span[0]} of {span[1]} generations)"


def _whole(row: Row) -> float:
    """Seconds of a cell; of a search that was broken off, of the whole search."""
    return float(row.get("whole_seconds", row["seconds"]))


def _at(rows: Sequence[Row], budget: float) -> list[Row]:
    return [row for row in rows if row["budget"] == budget]


def _value(row: Row, texts: Sequence[str]) -> float:
    return statistics.fmean(row["divergence"][text]["mean"] for text in texts)


def _spread(values: Sequence[float]) -> tuple[float, float | None]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _distinct(rows: Sequence[Row], field: str) -> list[Any]:
    return list(dict.fromkeys(row[field] for row in rows))


def _quality(lines: Sequence[Line], text: str | None) -> list[str]:
    """A row a method and a column a budget, the lowest of each bold; the mean over texts where none is named."""
    cells = {line.name: line.scores if text is None else line.texts[text] for line in lines}
    budgets = sorted({budget for found in cells.values() for budget in found})
    least = {b: min(found[b][0] for found in cells.values() if b in found) for b in budgets}
    table = ["| method | seeds | " + " | ".join(f"{budget:.1%}" for budget in budgets) + " |"]
    table += ["|---|---|" + "---:|" * len(budgets)]
    for line in lines:
        found = [cells[line.name].get(budget) for budget in budgets]
        shown = [_show(score, least[budget]) for budget, score in zip(budgets, found, strict=True)]
        table.append(f"| {line.name} | {line.seeds} | {' | '.join(shown)} |")
    return [*table, "", "± is one sample standard deviation over seeds; the lowest of each budget is bold."]


def _reached(lines: Sequence[Line]) -> list[str]:
    """Where methods removed different shares at one budget, and so do not quite compare: what each removed."""
    found = []
    for budget in sorted({budget for line in lines for budget in line.sparsity}):
        reached = {line.name: line.sparsity[budget] for line in lines if budget in line.sparsity}
        if max(reached.values()) - min(reached.values()) > _APART:
            listed = ", ".join(f"{name} {share:.1%}" for name, share in reached.items())
            found.append(f"- At {budget:.1%} methods removed different shares: {listed}.")
    return [*found, ""] if found else []


def _show(score: tuple[float, float | None] | None, least: float) -> str:
    if score is None:
        return ""
    mean, spread = score
    text = f"{mean:.4f}" + ("" if spread is None else f" ± {spread:.4f}")
    return f"**{text}**" if mean == least else text


def _losses(lines: Sequence[Line]) -> list[str]:
    """Budgets at which a peer has the lower score than the best of ours, and by how much."""
    ours, peers = [line for line in lines if line.ours], [line for line in lines if not line.ours]
    found = []
    for budget in sorted({budget for line in ours for budget in line.scores}):
        best = min((line for line in ours if budget in line.scores), key=lambda line: line.scores[budget][0])
        mine, spread = best.scores[budget]
        for peer in peers:
            theirs = peer.scores.get(budget, (math.inf, None))[0]
            if theirs < mine:
                within = " (within a seeds' deviation)" if spread is not None and mine - theirs <= spread else ""
                worse = f"{mine / theirs - 1:+.1%}{within}"
                found.append(f"- {budget:.1%}: {peer.name} {theirs:.4f}, {best.name} {mine:.4f}, {worse}")
    return found or ["Nowhere, in the mean over texts."]


def _costs(lines: Sequence[Line], result: Mapping[str, Any]) -> list[str]:
    most = max(result["requests"])
    table = [f"| method | tokens, {len(result['budgets'])} budgets | once | each request | {most} requests |"]
    table += ["|---|---:|---:|---:|---:|"]
    for line in lines:
        times = [_time(seconds) for seconds in (line.once, line.each, total_seconds(line, most))]
        name = f"{line.name} (time extrapolated to the whole search)" if line.extrapolated else line.name
        if len(line.scores) < len(result["budgets"]):
            name += f", {len(line.scores)} of the budgets"
        table.append(f"| {name} | {format_count(line.tokens)} | {' | '.join(times)} |")
    crossings = [
        f"- {mine.name} takes less time than {peer.name} from {count} request{'s' if count > 1 else ''} on."
        for mine in lines
        for peer in lines
        if mine.ours and not peer.ours and (count := _crossing(mine, peer)) is not None
    ]
    note = f"Times beyond the {len(result['budgets'])} measured budgets are extrapolated from their mean."
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
