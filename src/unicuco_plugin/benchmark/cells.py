"""Answers of a benchmark's cells, each found and measured once; whatever is done is in the journal."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.benchmark.plan import METHODS, Cell
from unicuco_plugin.benchmark.quality import Quality
from unicuco_plugin.benchmark.site import BenchmarkSite
from unicuco_plugin.errors import ExportError, ProfileError, RequestError
from unicuco_plugin.files.names import check_own_folder
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.journal.once import note_once
from unicuco_plugin.peers.peer import PeerRequest, PeerResult, ask_peer
from unicuco_plugin.plugins.manager import corrects, make_peer
from unicuco_plugin.progress import Progress
from unicuco_plugin.request import Request
from unicuco_plugin.schemes import DENSE_BITS
from unicuco_plugin.training import ModelSource, Shared, UnitOptions, train_profile
from unicuco_plugin.traits import traits_of

__all__ = ["CellRunner", "Tell"]

Tell = Callable[[Progress], None]


@dataclass
class CellRunner:
    """Finds answers and measures them.

    Attributes:
        site: What is compared on what.
        output: The folder of trained profiles and searches.
        journal: Open.
        quality: Measures answers, and records that in the same journal.
        progress: Called often.
    """

    site: BenchmarkSite
    output: Path
    journal: Journal
    quality: Quality
    progress: Tell
    stage: str = ""
    done: int = 0
    total: int = 0

    def rows(self, cells: Iterable[Cell]) -> list[dict[str, Any]]:
        """A row for each cell, as plain JSON data."""
        cells = list(cells)
        rows = []
        for done, cell in enumerate(cells):
            name = cell.name if cell.group == METHODS else f"{cell.group} {cell.name}"
            self.stage, self.done, self.total = f"{name}, seed {cell.seed}, {cell.budget:g}", done, len(cells)
            self._tell("")
            rows.append(self.row(cell))
        self.done = len(cells)
        self._tell("")
        return rows

    def _own(self, name: str) -> Path:
        """A folder in the output; a link in one that somebody sent may lead anywhere."""
        try:
            return check_own_folder(self.output / name)
        except OSError as error:
            raise ExportError(str(error)) from error

    def row(self, cell: Cell) -> dict[str, Any]:
        """One row: what was answered, spent, and measured on every text and window."""
        find = self._from_profile if cell.method.peer is None else self._from_peer
        answer = note_once(self.journal, cell.key, lambda: find(cell))
        corrected = answer.get("compensation")
        divergence = {
            name: self.quality.measure(name, answer["units"], partial(self._tell, f"measuring on {name}"), corrected)
            for name in self.site.plan.evaluation
        }
        place = {"group": cell.group, "method": cell.name, "seed": cell.seed, "budget": cell.budget}
        return {**place, **answer, "divergence": divergence}

    # -- answers --------------------------------------------------------------------------------------------------

    def _from_peer(self, cell: Cell) -> dict[str, Any]:
        name = cell.method.peer or ""
        peer = make_peer(name)
        options = {"setting": cell.method.setting, "token_budget": cell.method.token_budget}
        given: dict[str, Any] = {option: value for option, value in options.items() if value is not None}
        if "journal" in peer.takes:
            # What serves all budgets is found once, or a larger one goes on from a smaller one.
            place = cell.identity if peer.serves_all else cell.key.replace("/", "-")
            given["journal"] = self._own("searches") / f"{name}-{place}.sqlite"
        asked = PeerRequest(
            self.site.decoder,
            self.site.texts.of_cell(cell),
            cell.budget,
            space=self.site.plan.space,
            levels=self.quality.levels,
            seed=cell.seed,
            progress=lambda event: self._tell(f"{event.stage} {event.done}/{event.total}", event.tokens, event.message),
            **given,
        )
        found = ask_peer(peer, asked)
        return {
            **(_extrapolated(found) if cell.method.extrapolate else {}),
            "units": found.units,
            "sparsity": found.sparsity,
            "tokens": found.tokens,
            "seconds": round(found.seconds, 3),
            "shared": peer.serves_all,
            **self._correcting(cell.method.compensation),
        }

    def _from_profile(self, cell: Cell) -> dict[str, Any]:
        profile, cost = self._profile(cell)
        stores = traits_of(self.site.plan.space).stores
        asked = Request.of(bits=DENSE_BITS * (1.0 - cell.budget)) if stores else Request.of(sparsity=cell.budget)
        profile.answer(asked)  # the first answer also reads the archive
        started = time.perf_counter()
        strategy = profile.answer(asked)
        return {
            "units": strategy.units,
            "sparsity": strategy.sparsity if strategy.bits is None else 1.0 - strategy.bits / DENSE_BITS,
            "tokens": cost["tokens"],
            "seconds": cost["seconds"],
            "answer_seconds": round(time.perf_counter() - started, 6),
            "shared": True,
            **self._correcting(cell.method.compensation or strategy.compensation),
        }

    def _correcting(self, name: str | None) -> dict[str, Any]:
        """What an answer is measured with, and the tokens that its corrections are solved from."""
        if name is None or not corrects(name):
            return {}
        return {"compensation": name, "compensation_tokens": self.site.texts.calibration.numel()}

    def _profile(self, cell: Cell) -> tuple[Profile, dict[str, Any]]:
        """A cell's profile, trained now if it has to be, and what training took, all runs together."""
        if cell.settings is None:
            profile = load_profile(cell.method.profile or "")
            spent = {name: profile.provenance.get(name) for name in ("evaluation_tokens", "seconds")}
            if not all(isinstance(value, int | float) for value in spent.values()):
                raise ProfileError(
                    f"profile {profile.name} does not record what it cost: {', '.join(spent)}; train it again"
                )
            return profile, {"tokens": spent["evaluation_tokens"], "seconds": spent["seconds"]}
        folder = self._own("profiles") / cell.identity
        note = f"trained/{cell.identity}"
        cost = self.journal.notes().get(note)
        if cost is not None and folder.is_dir():  # the journal may have come without its profiles
            return load_profile(folder), cost
        plan, measuring = self.site.plan, list[float]()
        started = time.perf_counter()
        profile = train_profile(
            ModelSource(plan.model, trust_remote_code=self.site.trust_remote_code),  # loaded it is already
            folder,
            space=plan.space,
            units=UnitOptions(levels=plan.levels, granularity=plan.granularity) if plan.levels else None,
            compensation=cell.method.compensation,
            calibration=plan.calibration.sources,
            settings=cell.settings,
            resume=True,
            shared=Shared(self.journal, measuring.append, self.site.decoder.model),
            progress=lambda event: self._tell(f"{event.stage} {event.done}/{event.total}", event.tokens, event.message),
        )
        if profile.provenance["interrupted"]:
            raise KeyboardInterrupt
        # What was measured is charged as it was measured once; the rest is this run's own time.
        rest = time.perf_counter() - started - sum(measuring)
        spent = profile.provenance
        cost = {"tokens": spent["evaluation_tokens"], "seconds": round(spent["evaluation_seconds"] + rest, 3)}
        self.journal.write_note(note, cost)
        return profile, cost

    def _tell(self, detail: str, tokens: int = 0, message: str = "") -> None:
        stage = f"{self.stage}: {detail}" if detail else self.stage
        self.progress(Progress(stage, self.done, self.total, tokens, message))


def _extrapolated(found: PeerResult) -> dict[str, Any]:
    """What the whole of a search would take that its token budget ended, at the pace of its generations."""
    details: Any = found.details
    if "generations" not in details:
        raise RequestError(f"extrapolate goes with a search in generations, got {', '.join(details) or 'nothing'}")
    done, total, first = details["generations"], details["settings"]["generations"], details["first_seconds"]
    whole = first + (found.seconds - first) * max(total, 1) / max(done, 1)
    return {"generations": [done, total], "whole_seconds": round(whole, 3)}
