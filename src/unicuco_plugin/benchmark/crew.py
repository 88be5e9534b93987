"""A benchmark's cells answered by workers, each in a journal of its own, which the benchmark's own takes in."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unicuco_plugin.benchmark.cells import CellRunner, Tell
from unicuco_plugin.benchmark.plan import BenchmarkPlan
from unicuco_plugin.benchmark.quality import Quality
from unicuco_plugin.benchmark.site import BenchmarkSite
from unicuco_plugin.errors import CalibrationError, ExportError, ModelMismatchError
from unicuco_plugin.executors.crew import Crew, Worker
from unicuco_plugin.executors.first_come import FirstCome
from unicuco_plugin.executors.on_ray import RayWorkers
from unicuco_plugin.files.names import check_own_folder
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.journal.merge import merge_journal, remove_journal
from unicuco_plugin.progress import Progress

__all__ = ["Answering", "answer_on", "take_in"]

# Where workers have their journals, in the benchmark's folder.
_FOLDER = "workers"


@dataclass(frozen=True)
class CellsJob:
    """The cells of one method and seed.

    Attributes:
        identity: What they share.
        losses: Workers that were lost over them.
    """

    identity: str
    losses: int = 0


@dataclass(frozen=True)
class Answering:
    """What workers need to answer cells.

    Attributes:
        plan: Of the benchmark.
        output: Its folder, which they see.
        header: Of its journal.
        hashes: Of its texts.
        trust_remote_code: Whether code in the model's own repository may run.
    """

    plan: BenchmarkPlan
    output: Path
    header: Mapping[str, str]
    hashes: Mapping[str, str]
    trust_remote_code: bool

    def open(self) -> Callable[..., Any]:
        """Load the model and cut texts, and return what answers the cells of an identity.

        Raises:
            ModelMismatchError: If another model is there.
            CalibrationError: If a text there holds something else.
        """
        site = BenchmarkSite.open(self.plan, trust_remote_code=self.trust_remote_code)
        differing = [name for name, value in site.header.items() if value != self.header[name]]
        if differing:
            name = differing[0]
            raise ModelMismatchError(
                f"{name} of a worker must be the benchmark's {self.header[name]}, got {site.header[name]}: load the "
                "same model alike"
            )
        other = [name for name, value in site.texts.hashes.items() if value != self.hashes[name]]
        if other:
            raise CalibrationError(f"{other[0]} holds another text on a worker's machine than where the benchmark runs")
        return partial(self._answer, site)

    def _answer(self, site: BenchmarkSite, identity: str) -> None:
        with Journal.open(_path(self.output, identity), self.header, resume=True) as journal:
            quality = Quality(self.plan, site.texts, site.decoder, journal)
            runner = CellRunner(site, self.output, journal, quality, lambda _: None)
            runner.rows(cell for cell in self.plan.cells() if cell.identity == identity)


def answer_on(workers: RayWorkers, site: BenchmarkSite, output: Path, quality: Quality, progress: Tell) -> None:
    """Have workers answer and measure the cells that a journal does not hold yet, and take in what they find.

    Args:
        workers: To start.
        site: What is compared on what.
        output: The benchmark's folder, which all machines see.
        quality: With the benchmark's journal, open.
        progress: Called often.

    Raises:
        EvaluationError: If there are no workers, or cells that none of them can answer.
        UnicucoError: As those say who raise them.
    """
    plan, journal, header = site.plan, quality.journal, site.header
    known = journal.notes()
    cells = list(plan.cells())
    # What is trained takes longest, and comes first.
    wanted = sorted(
        (cell for cell in cells if not _is_done(quality, known.get(cell.key))), key=lambda cell: cell.settings is None
    )
    identities = list(dict.fromkeys(cell.identity for cell in wanted))
    left = set(identities)
    if not left:
        return
    output = output.absolute()
    own = _folder(output)
    own.mkdir(exist_ok=True)
    opening = Answering(plan, output, header, site.texts.hashes, site.trust_remote_code)

    def tell(text: str = "") -> None:
        done = sum(cell.identity not in left for cell in cells)
        progress(Progress(f"{len(left)} methods and seeds on workers", done, len(cells), message=text))

    turn = threading.Lock()

    def answer(worker: Worker, held: Sequence[CellsJob]) -> None:
        for job in held:
            with turn:
                journal.copy(_path(output, job.identity))  # with what others have found meanwhile
            worker.do(job.identity)
            with turn:  # two of them may have measured the same
                _merge(_path(output, job.identity), journal, header)
                left.discard(job.identity)

    with workers.at(opening, torch.device(header["device"]).type) as pool:
        line = FirstCome([CellsJob(identity) for identity in identities])
        crew = Crew(pool.hire, min(workers.count, len(identities)), line, answer, say=tell, what="method and seed")
        try:
            while left:
                tell()
                crew.wait()
        finally:
            crew.close()


def _is_done(quality: Quality, answer: dict[str, Any] | None) -> bool:
    """Whether an answer is known and was measured on every text, one that a plan names since too."""
    return answer is not None and all(
        quality.knows(name, answer["units"], answer.get("compensation")) for name in quality.plan.evaluation
    )


def take_in(output: Path, journal: Journal, header: Mapping[str, str]) -> None:
    """Take in what workers of an earlier run had found when it ended.

    Args:
        output: The benchmark's folder.
        journal: Of the benchmark, open.
        header: Of the journal.

    Raises:
        JournalError: If a worker still has its journal, or that is damaged.
    """
    for path in sorted(_folder(output).glob("*.sqlite")):
        _merge(path, journal, header)


def _merge(path: Path, journal: Journal, header: Mapping[str, str]) -> None:
    with Journal.open(path, header, resume=True) as own:
        merge_journal(own, journal)
    remove_journal(path)


def _path(output: Path, identity: str) -> Path:
    return _folder(output) / f"{identity}.sqlite"


def _folder(output: Path) -> Path:
    try:
        return check_own_folder(output / _FOLDER)
    except OSError as error:
        raise ExportError(str(error)) from error
