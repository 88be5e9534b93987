"""Zero-shot tasks in words."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unicuco_plugin.report.comparison import estimate_data, show_estimate
from unicuco_plugin.report.table import format_table

if TYPE_CHECKING:  # it brings torch with it
    from unicuco_plugin.evaluation.tasks import TaskComparison

__all__ = ["describe_tasks", "task_data"]


def describe_tasks(rows: Sequence["TaskComparison"]) -> str:
    """Tabulate metrics; ``±`` is one standard error, that of a paired comparison for the difference."""
    header = ["task", "metric", "documents", "dense", "pruned", "pruned - dense"]
    cells = [
        [
            row.task,
            row.metric,
            f"{row.documents:,}",
            *(show_estimate(part, 4) for part in (row.dense, row.pruned, row.difference) if part is not None),
        ]
        for row in rows
    ]
    columns = max(map(len, cells), default=len(header))
    return format_table(header[:columns], cells, right=range(2, columns))


def task_data(rows: Sequence["TaskComparison"]) -> list[dict[str, Any]]:
    """The same as JSON data; what was not measured is absent."""
    data = []
    for row in rows:
        parts = {"dense": row.dense, "pruned": row.pruned, "difference": row.difference}
        estimates = {name: estimate_data(part) for name, part in parts.items() if part is not None}
        data.append({"task": row.task, "metric": row.metric, "documents": row.documents, **estimates})
    return data
