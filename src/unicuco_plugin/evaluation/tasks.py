"""Zero-shot tasks by lm-eval: a dense model and a pruned one on the same documents, compared document by document."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unicuco_plugin.errors import EvaluationError
from unicuco_plugin.evaluation.comparison import Estimate
from unicuco_plugin.models.tensors.finite import check_finite
from unicuco_plugin.models.tensors.memory import Fitting, lacks_memory

__all__ = ["TaskComparison", "compare_tasks", "find_tasks", "mean_of_tasks", "run_tasks"]

# Metric → value of each document, by document.
Scores = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class TaskComparison:
    """One metric of one task.

    Attributes:
        task: lm-eval's name.
        metric: Its metric, such as ``acc`` or ``acc_norm``.
        documents: Documents that both models answered.
        dense: The dense model's mean, with its standard error over documents.
        pruned: The same of the pruned model; None without one.
        difference: Mean of pruned minus dense over documents, with its standard error: that of a paired comparison.
    """

    task: str
    metric: str
    documents: int
    dense: Estimate
    pruned: Estimate | None
    difference: Estimate | None


def find_tasks(tasks: Sequence[str], include_path: Path | None = None) -> Any:  # noqa: ANN401 - lm-eval's TaskManager
    """Look tasks up, before any model is loaded for them.

    Args:
        tasks: Names of tasks or groups, on the hub or under ``include_path``.
        include_path: A folder with lm-eval's YAML files.

    Returns:
        What :func:`run_tasks` finds them in.

    Raises:
        EvaluationError: If lm-eval is not installed, the folder is missing, or a task is unknown.
    """
    try:
        from lm_eval.tasks import TaskManager  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise EvaluationError(
            f"--tasks needs lm-eval, which cannot be imported ({error}): pip install 'unicuco-plugin[eval]'"
        ) from error
    if include_path is not None and not include_path.is_dir():
        raise EvaluationError(f"include_path must be a folder of lm-eval tasks, got {include_path}")
    manager = TaskManager(include_path=None if include_path is None else str(include_path))
    known = set(manager.all_tasks)
    unknown = [task for task in tasks if task not in known]
    if unknown:
        raise EvaluationError(f"tasks must be names that lm-eval knows, got {', '.join(unknown)}; see lm_eval ls tasks")
    return manager


def run_tasks(
    model: Any,  # noqa: ANN401 - a Transformers model
    tokenizer: Any,  # noqa: ANN401 - a Transformers tokenizer
    tasks: Sequence[str],
    manager: Any,  # noqa: ANN401 - lm-eval's TaskManager
    *,
    limit: int | None = None,
    batch_size: int = 8,
) -> dict[str, Scores]:
    """Run tasks on one model in memory.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        tasks: Names of tasks or groups.
        manager: Where :func:`find_tasks` found them.
        limit: At most so many documents of each task, the first ones.
        batch_size: Sequences run together.

    Returns:
        For each task (of a group, each of its tasks) every metric that is a number a document.

    Raises:
        EvaluationError: If lm-eval fails, the model's logits are not finite, or memory has no room for one sequence.
    """
    fitting = Fitting(batch_size, ("sequence", "sequences are run"), "the length of the task's prompts, or the dtype")
    return fitting(partial(_run, model, tokenizer, tasks=tasks, task_manager=manager, limit=limit))


def _run(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    batch_size: int,
    *,
    tasks: Sequence[str],
    **options: Any,  # noqa: ANN401 - lm-eval's
) -> dict[str, Scores]:
    from lm_eval import simple_evaluate  # noqa: PLC0415
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415

    def look(_: object, __: object, output: Any) -> None:  # noqa: ANN401 - a Transformers output
        # A token that a model rules out may have an infinitely small logit; a position's largest may not.
        check_finite(f"logits of {type(model).__name__}", output.logits.amax(-1), output.logits.dtype)

    hook = model.register_forward_hook(look)
    try:
        found = simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            tasks=list(tasks),
            **options,
            log_samples=True,
            bootstrap_iters=0,  # standard errors come from the documents below
        )
    except EvaluationError:
        raise
    except Exception as error:  # whatever a task's data or code raises
        if lacks_memory(error):
            raise
        raise EvaluationError(f"lm-eval failed on {', '.join(tasks)}: {type(error).__name__}: {error}") from error
    finally:
        hook.remove()
    return {task: _scores(samples) for task, samples in found["samples"].items()}


def _scores(samples: Sequence[Mapping[str, Any]]) -> Scores:
    scores: dict[str, dict[int, float]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            value = sample[metric]
            if isinstance(value, bool | int | float) and math.isfinite(value):
                scores.setdefault(metric, {})[sample["doc_id"]] = float(value)
    return scores


def compare_tasks(dense: Mapping[str, Scores], pruned: Mapping[str, Scores] | None = None) -> list[TaskComparison]:
    """Pair the documents of two runs.

    Args:
        dense: What :func:`run_tasks` gave for the dense model.
        pruned: The same for the pruned one, or None.

    Returns:
        One comparison a task and metric, in order.

    Raises:
        EvaluationError: If the two runs have no document in common.
    """
    rows = []
    for task, metrics in dense.items():
        for metric, before in metrics.items():
            after = before if pruned is None else pruned.get(task, {}).get(metric, {})
            common = sorted(before.keys() & after.keys())
            if not common:
                raise EvaluationError(f"{task}: the two models have no document in common for {metric}")
            a, b = [before[document] for document in common], [after[document] for document in common]
            change = [y - x for x, y in zip(a, b, strict=True)]
            both = (None, None) if pruned is None else (Estimate.of(b), Estimate.of(change))
            rows.append(TaskComparison(task, metric, len(common), Estimate.of(a), *both))
    return rows


def mean_of_tasks(rows: Sequence[TaskComparison]) -> list[TaskComparison]:
    """The plain mean over tasks of every metric that at least two tasks have; tasks are taken as independent."""
    means = []
    for metric in dict.fromkeys(row.metric for row in rows):
        same = [row for row in rows if row.metric == metric]
        if len(same) < 2:
            continue
        pruned = [row.pruned for row in same if row.pruned is not None]
        changes = [row.difference for row in same if row.difference is not None]
        means.append(
            TaskComparison(
                f"mean of {len(same)}",
                metric,
                sum(row.documents for row in same),
                _mean([row.dense for row in same]),
                _mean(pruned) if pruned else None,
                _mean(changes) if changes else None,
            )
        )
    return means


def _mean(parts: Sequence[Estimate]) -> Estimate:
    errors = math.fsum(part.standard_error**2 for part in parts)
    return Estimate(math.fsum(part.mean for part in parts) / len(parts), math.sqrt(errors) / len(parts))
