"""Two models beside each other in words."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from unicuco_plugin.report.table import format_table

if TYPE_CHECKING:  # it brings torch with it
    from unicuco_plugin.objectives.comparison import Comparison, Estimate

__all__ = ["comparison_data", "describe_comparisons"]


def comparison_data(result: "Comparison") -> dict[str, Any]:
    """Perplexities and divergence, each with its standard error, as JSON data; what was not measured is absent."""
    data: dict[str, Any] = {"dense": {"perplexity": _estimate(result.dense.exp())}}
    if result.pruned is not None:
        data["pruned"] = {"perplexity": _estimate(result.pruned.exp())}
    if result.divergence is not None:
        data["divergence"] = _estimate(result.divergence)
    return data | {"tokens": result.tokens}


def describe_comparisons(results: Mapping[str, "Comparison"]) -> str:
    """Tabulate one comparison a text; ``±`` is one standard error."""
    rows = []
    for name, result in results.items():
        cells = [name, f"{result.tokens:,}", _show(result.dense.exp(), 3)]
        if result.pruned is not None and result.divergence is not None:
            cells += [_show(result.pruned.exp(), 3), _show(result.divergence, 4)]
        rows.append(cells)
    header = ["text", "tokens", "dense perplexity", "pruned perplexity", "divergence (nats/token)"]
    columns = max(len(row) for row in rows)
    return format_table(header[:columns], rows, right=range(1, columns))


def _estimate(estimate: "Estimate") -> dict[str, float | None]:
    # JSON has no NaN.
    error = None if math.isnan(estimate.standard_error) else estimate.standard_error
    return {"mean": estimate.mean, "standard_error": error}


def _show(estimate: "Estimate", digits: int) -> str:
    if math.isnan(estimate.standard_error):
        return f"{estimate.mean:.{digits}f}"
    return f"{estimate.mean:.{digits}f} ± {estimate.standard_error:.{digits}f}"
