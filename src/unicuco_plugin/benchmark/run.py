"""Runs a benchmark's cells, here or on workers; whatever is done is in the journal and is not done again."""

from pathlib import Path
from typing import Any

from unicuco_plugin.benchmark.cells import CellRunner, Tell
from unicuco_plugin.benchmark.crew import answer_on, take_in
from unicuco_plugin.benchmark.plan import BenchmarkPlan
from unicuco_plugin.benchmark.quality import Quality
from unicuco_plugin.benchmark.site import BenchmarkSite
from unicuco_plugin.executors.on_ray import RayWorkers
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.models.loading import display_name
from unicuco_plugin.progress import Progress

__all__ = ["JOURNAL", "run_benchmark"]

JOURNAL = "benchmark.sqlite"


def run_benchmark(
    plan: BenchmarkPlan,
    output: Path,
    progress: Tell = lambda _: None,
    *,
    trust_remote_code: bool = False,
    workers: RayWorkers | None = None,
) -> dict[str, Any]:
    """Run every cell that the journal in ``output`` does not hold yet.

    Args:
        plan: What to run.
        output: A folder for the journal, trained profiles and searches; made if it is missing.
        progress: Called often.
        trust_remote_code: Whether code in the model's own repository may run; whoever runs a benchmark says so, not its
            YAML.
        workers: Processes that find and measure answers, those of one method and seed each; none lets this one do it.
            Results are the same but for the seconds.

    Returns:
        Plain JSON data: ``rows``, one a cell, with what was answered, spent, and measured on every text and window;
        ``space``, ``model``, ``budgets``, ``requests``.

    Raises:
        JournalError: If the journal is in use, damaged, or of another model or dtype.
        UnsupportedModelError, CalibrationError, LevelsError, RequestError: See those who raise them.
        KeyboardInterrupt: If interrupted; the next run goes on.
    """
    output.mkdir(parents=True, exist_ok=True)
    site = BenchmarkSite.open(
        plan,
        lambda text: progress(Progress("loading the model", 0, 1, message=text)),
        trust_remote_code=trust_remote_code,
    )
    header = site.header
    with Journal.open(output / JOURNAL, header, resume=True) as journal:
        take_in(output, journal, header)
        quality = Quality(plan, site.texts, site.decoder, journal)
        quality.check_contents(output / JOURNAL)
        if workers is not None:
            answer_on(workers, site, output, quality, progress)
        rows = CellRunner(site, output, journal, quality, progress).rows(plan.cells())
    facts = {"model": display_name(plan.model), **header, "fingerprint": header["model"]}
    return facts | {
        "model": display_name(plan.model),
        "budgets": list(plan.budgets),
        "requests": list(plan.requests),
        "texts": list(plan.evaluation),
        "rows": rows,
    }
