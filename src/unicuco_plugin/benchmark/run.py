"""Runs a benchmark's cells one after another; whatever is done is in the journal and is not done again."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.benchmark.plan import METHODS, BenchmarkPlan, Cell
from unicuco_plugin.benchmark.quality import Quality
from unicuco_plugin.benchmark.texts import Texts
from unicuco_plugin.errors import ExportError, ProfileError, RequestError
from unicuco_plugin.files.names import check_own_folder
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.journal.once import note_once
from unicuco_plugin.levels.experts import split_experts
from unicuco_plugin.models.blocks.decoder import Decoder, find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.exportable import check_exportable
from unicuco_plugin.models.loading import display_name, load_config, load_model
from unicuco_plugin.models.tensors.storage import compute_device
from unicuco_plugin.peers.peer import PeerRequest, PeerResult, ask_peer
from unicuco_plugin.plugins.manager import corrects, make_peer
from unicuco_plugin.progress import Progress
from unicuco_plugin.request import Request
from unicuco_plugin.schemes import DENSE_BITS
from unicuco_plugin.training import ModelSource, Shared, UnitOptions, train_profile
from unicuco_plugin.traits import traits_of

__all__ = ["JOURNAL", "run_benchmark"]

JOURNAL = "benchmark.sqlite"
Tell = Callable[[Progress], None]


def run_benchmark(
    plan: BenchmarkPlan, output: Path, progress: Tell = lambda _: None, *, trust_remote_code: bool = False
) -> dict[str, Any]:
    """Run every cell that the journal in ``output`` does not hold yet.

    Args:
        plan: What to run.
        output: A folder for the journal, trained profiles and searches; made if it is missing.
        progress: Called often.
        trust_remote_code: Whether code in the model's own repository may run; whoever runs a benchmark says so, not its
            YAML.

    Returns:
        Plain JSON data: ``rows``, one a cell, with what was answered, spent, and measured on every text and window;
        ``space``, ``model``, ``budgets``, ``requests``.

    Raises:
        JournalError: If the journal is in use, damaged, or of another model or dtype.
        UnsupportedModelError, CalibrationError, LevelsError, RequestError: See those who raise them.
        KeyboardInterrupt: If interrupted; the next run goes on.
    """
    code: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    check_exportable(load_config(plan.model, **code), plan.space, **code)
    texts = Texts(plan, **code)
    output.mkdir(parents=True, exist_ok=True)
    progress(Progress("loading the model", 0, 1))
    model = load_model(
        plan.model,
        dtype=plan.dtype,
        device=plan.device,
        offload=plan.offload,
        tell=lambda text: progress(Progress("loading the model", 0, 1, message=text)),
        **code,
    )
    decoder = find_decoder(model)
    if traits_of(plan.space).on_levels:
        split_experts(decoder.model)
    header = {
        "model": str(fingerprint(decoder.model)),
        "dtype": str(decoder.model.dtype).removeprefix("torch."),
        "device": plan.device if plan.device != "auto" else compute_device(model).type,
        "space": plan.space,
    }
    with Journal.open(output / JOURNAL, header, resume=True) as journal:
        quality = Quality(plan, texts, decoder, journal)
        run = _Run(plan, output, texts, decoder, journal, quality, progress, trust_remote_code)
        rows = run.rows()
    facts = {"model": display_name(plan.model), **header, "fingerprint": header["model"]}
    return facts | {
        "model": display_name(plan.model),
        "budgets": list(plan.budgets),
        "requests": list(plan.requests),
        "texts": list(plan.evaluation),
        "rows": rows,
    }


@dataclass
class _Run:
    plan: BenchmarkPlan
    output: Path
    texts: Texts
    decoder: Decoder
    journal: Journal
    quality: Quality
    progress: Tell
    trust_remote_code: bool
    stage: str = ""
    done: int = 0
    total: int = 0

    def rows(self) -> list[dict[str, Any]]:
        self.quality.check_contents(self.output / JOURNAL)
        cells = list(self.plan.cells())
        rows = []
        for done, cell in enumerate(cells):
            name = cell.name if cell.group == METHODS else f"{cell.group} {cell.name}"
            self.stage, self.done, self.total = f"{name}, seed {cell.seed}, {cell.budget:g}", done, len(cells)
            self._tell("")
            rows.append(self._row(cell))
        self.done = len(cells)
        self._tell("")
        return rows

    def _own(self, name: str) -> Path:
        """A folder in the output; a link in one that somebody sent may lead anywhere."""
        try:
            return check_own_folder(self.output / name)
        except OSError as error:
            raise ExportError(str(error)) from error

    def _row(self, cell: Cell) -> dict[str, Any]:
        find = self._from_profile if cell.method.peer is None else self._from_peer
        answer = note_once(self.journal, cell.key, lambda: find(cell))
        corrected = answer.get("compensation")
        divergence = {
            name: self.quality.measure(name, answer["units"], partial(self._tell, f"measuring on {name}"), corrected)
            for name in self.plan.evaluation
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
            self.decoder,
            self.texts.of_cell(cell),
            cell.budget,
            space=self.plan.space,
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
        stores = traits_of(self.plan.space).stores
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
        return {"compensation": name, "compensation_tokens": self.texts.calibration.numel()}

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
        measuring: list[float] = []
        started = time.perf_counter()
        profile = train_profile(
            ModelSource(self.plan.model, trust_remote_code=self.trust_remote_code),  # loaded it is already
            folder,
            space=self.plan.space,
            units=UnitOptions(levels=self.plan.levels, granularity=self.plan.granularity) if self.plan.levels else None,
            compensation=cell.method.compensation,
            calibration=self.plan.calibration.sources,
            settings=cell.settings,
            resume=True,
            shared=Shared(self.journal, measuring.append, self.decoder.model),
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
