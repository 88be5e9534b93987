"""Two models compared, in words."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from unicuco_plugin.report.table import format_table

if TYPE_CHECKING:  # it brings torch with it
    from unicuco_plugin.evaluation.comparison import Comparison, Estimate

__all__ = ["comparison_data", "describe_comparisons", "estimate_data", "show_estimate"]


def comparison_data(result: "Comparison") -> dict[str, Any]:
    """Perplexities and divergence, each with its standard error, as JSON data; what was not measured is absent."""
    data: dict[str, Any] = {"dense": {"perplexity": estimate_data(result.dense.exp())}}
    if result.pruned is not None:
        data["pruned"] = {"perplexity": estimate_data(result.pruned.exp())}
    if result.divergence is not None:
        data["divergence"] = estimate_data(result.divergence)
    return data | {"tokens": result.tokens}


def describe_comparisons(results: Mapping[str, "Comparison"]) -> str:
    """Tabulate one comparison a text; ``±`` is one standard error."""
    rows = []
    for name, result in results.items():
        cells = [name, f"{result.tokens:,}", show_estimate(result.dense.exp(), 3)]
        if result.pruned is not None and result.divergence is not None:
            cells += [show_estimate(result.pruned.exp(), 3), show_estimate(result.divergence, 4)]
        rows.append(cells)
    header = ["text", "tokens", "dense perplexity", "pruned perplexity", "divergence (nats/token)"]
    columns = max(len(row) for row in rows)
    return format_table(header[:columns], rows, right=range(1, columns))


def estimate_data(estimate: "Estimate") -> dict[str, float | None]:
    """An estimate as JSON data; its standard error is null where it is unknown."""
    # JSON has no NaN.
    error = None if math.isnan(estimate.standard_error) else estimate.standard_error
    return {"mean": estimate.mean, "standard_error": error}


def show_estimate(estimate: "Estimate", digits: int) -> str:
    """Write ``mean ± standard error``."""
    if math.isnan(estimate.standard_error):
        return f"{estimate.mean:.{digits}f}"
    return f"{estimate.mean:.{digits}f} ± {estimate.standard_error:.{digits}f}"
