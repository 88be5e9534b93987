"""What each method of a benchmark did, summed up from its rows.

A *score* is the mean divergence over texts, nats per token; of a method with several seeds the mean over seeds, its
*spread* the sample standard deviation over seeds.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unicuco_plugin.evaluation.comparison import Estimate
from unicuco_plugin.schemes import DENSE_BITS
from unicuco_plugin.traits import traits_of

__all__ = ["Line", "distinct", "label_budget", "lines_of", "paired_error", "total_seconds"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """What one method did.

    Attributes:
        name: Of the method, or of an ablation's variant.
        ours: Whether a profile answered.
        seeds: How many.
        scores: Budget → score and spread; the spread is None for one seed.
        texts: Text → the same.
        windows: Budget → text → divergence on each window, mean over seeds.
        sparsity: Budget → what the answers removed, mean over seeds.
        tokens: Evaluation tokens for one answer at every budget, mean over seeds.
        once: Seconds spent once for all requests; 0 for a method that starts again for each.
        each: Mean seconds of one request more.
        extrapolated: Whether those are of searches that were cut short and would have continued at the same pace.
    """

    name: str
    ours: bool
    seeds: int
    scores: dict[float, tuple[float, float | None]]
    texts: dict[str, dict[float, tuple[float, float | None]]]
    windows: dict[float, dict[str, list[float]]]
    sparsity: dict[float, float]
    tokens: float
    once: float
    each: float
    extrapolated: bool = False


def lines_of(rows: Sequence[Row], group: str) -> list[Line]:
    """Sum up one group's rows, in their order."""
    chosen = [row for row in rows if row["group"] == group]
    return [_line(name, [row for row in chosen if row["method"] == name]) for name in distinct(chosen, "method")]


def label_budget(space: str, budget: float) -> str:
    """A budget as people say it: the share that goes, or the mean bits that are left."""
    return f"{DENSE_BITS * (1.0 - budget):.4g} bits" if traits_of(space).stores else f"{budget:.1%}"


def total_seconds(line: Line, requests: int) -> float:
    """Seconds for so many requests, at the mean of the measured budgets."""
    return line.once + requests * line.each


def paired_error(one: Line, other: Line, budget: float) -> float | None:
    """Standard error over windows of the difference of two scores at a budget, nats per token.

    Both were measured on the same windows, so what these have in common cancels; texts are taken as independent.
    None where a text has a single window.
    """
    squares = []
    for text, values in one.windows[budget].items():
        gaps = [a - b for a, b in zip(values, other.windows[budget][text], strict=True)]
        squares.append(Estimate.of(gaps).standard_error ** 2)
    error = math.sqrt(math.fsum(squares)) / len(squares)
    return None if math.isnan(error) else error


def distinct(rows: Sequence[Row], field: str) -> list[Any]:
    """What rows have in a field, each once, in their order."""
    return list(dict.fromkeys(row[field] for row in rows))


def _line(name: str, rows: Sequence[Row]) -> Line:
    seeds, budgets = distinct(rows, "seed"), sorted(distinct(rows, "budget"))
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
        windows={b: {text: _windows(_at(rows, b), text) for text in texts} for b in budgets},
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
    """Seconds of a cell; for a search that was cut short, of the whole search."""
    return float(row.get("whole_seconds", row["seconds"]))


def _at(rows: Sequence[Row], budget: float) -> list[Row]:
    return [row for row in rows if row["budget"] == budget]


def _value(row: Row, texts: Sequence[str]) -> float:
    return statistics.fmean(row["divergence"][text]["mean"] for text in texts)


def _spread(values: Sequence[float]) -> tuple[float, float | None]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _windows(rows: Sequence[Row], text: str) -> list[float]:
    return [
        statistics.fmean(values) for values in zip(*(row["divergence"][text]["windows"] for row in rows), strict=True)
    ]
