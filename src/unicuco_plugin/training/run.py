"""One run, from a model and text to a profile on disk."""

import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.errors import JournalError, ProfileError
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.journal.measuring import CONFIRM, RANK, RERANK, JournaledMeasure
from unicuco_plugin.journal.memory import RememberedObjective
from unicuco_plugin.models.blocks.decoder import Decoder, find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.exportable import check_exportable
from unicuco_plugin.models.loading import display_name, load_config, load_model, load_tokenizer
from unicuco_plugin.models.reach import Reach
from unicuco_plugin.objectives.objective import Objective, ObjectiveRequest
from unicuco_plugin.plugins.manager import make_objective, make_scalarization
from unicuco_plugin.profile import RECORD, is_profile, write_profile
from unicuco_plugin.progress import Progress
from unicuco_plugin.scores.ranked_parts import RankedParts
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.search.trainer import train
from unicuco_plugin.strategy import ModelReference
from unicuco_plugin.texts.calibration import calibration_hash, load_windows
from unicuco_plugin.texts.selfcalibration import generate_windows, own_cache
from unicuco_plugin.training.outcome import build_record
from unicuco_plugin.training.shared import Shared
from unicuco_plugin.training.subject import Subject, Units
from unicuco_plugin.training.subjects.find import check_units, find_subject

__all__ = ["JOURNAL", "Shared", "train_profile"]

JOURNAL = "journal.sqlite"
# Windows of full length that parts are ranked on: 4 096 tokens by default. On SmolLM2 a quarter of the head groups and
# neurons chosen from 2 048 tokens cost 1.578 nats, from 4 096 1.579.
_PART_WINDOWS = 8
_PACKAGES = ("unicuco-plugin", "torch", "transformers", "botorch", "gpytorch", "llmcompressor")


@dataclass(frozen=True)
class _Windows:
    """Disjoint calibration windows of each fidelity."""

    rank: Tensor
    rerank: Tensor
    confirm: Tensor
    parts: Tensor
    source: dict[str, Any]


def train_profile(
    model: str | Path,
    output: Path,
    *,
    space: str = "depth",
    units: Units | None = None,
    objective: str = "divergence",
    calibration: Sequence[str] = (),
    settings: Settings | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    split: str = "train",
    samples: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
    shared: Shared | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Profile:
    """Train a profile and write it to a folder, beside a journal from which a killed run resumes.

    Args:
        model: Folder or hub name of the dense model.
        output: The profile's folder; its name becomes the profile's.
        space: What is pruned, by plugin name.
        units: The units of spaces that zero weights or cut parts.
        objective: What is measured, by plugin name.
        calibration: Text files, JSONL files, ``datasets`` names or folders; none lets the model write its own text.
        settings: How to train; the default preset if left out.
        device: Where the model runs, such as ``cpu`` or ``cuda``.
        dtype: The model's dtype; ``auto`` is the checkpoint's.
        revision: As in Transformers.
        trust_remote_code: As in Transformers.
        split: Which split of a dataset to read.
        samples: The most documents to take from each source.
        resume: Continue the journal in ``output``.
        overwrite: Replace an existing profile and journal.
        command: The command line, for the provenance.
        shared: What runs over the same model share, such as measurements.
        progress: Called often.

    Returns:
        The profile as written. After Ctrl-C it holds what was known at that point (``provenance["interrupted"]``).

    Raises:
        ProfileError: If ``output`` holds a profile or journal already and neither flag is given.
        UnsupportedModelError, CalibrationError, JournalError, LevelsError, UnknownNameError: As these classes say.
        KeyboardInterrupt: If interrupted before the space has a surrogate; what was measured is in the journal.
    """
    started = time.perf_counter()
    output = Path(output)
    settings = settings or Settings()
    scalarization = make_scalarization(settings.scalarization)
    check_units(space, units or Units())
    _check_output(output, resume=resume, overwrite=overwrite)
    progress(Progress("loading the model", 0, 1, 0, ""))
    hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    # What could not be exported in the end is refused before a weight is read.
    compensate = units is None or units.compensate
    check_exportable(load_config(model, **hub), space, compensate=compensate, trust_remote_code=trust_remote_code)
    held = None if shared is None else shared.model
    dense = held if held is not None else load_model(model, **hub, dtype=dtype)
    decoder = find_decoder(dense)
    reference = ModelReference(name=display_name(model), fingerprint=str(fingerprint(dense)))
    subject = find_subject(space, decoder, reference.fingerprint, units or Units())
    BlockRunner(decoder, settings.rank_seq_length)  # what cannot be run block by block is refused before text is read
    tokenizer = load_tokenizer(model, **hub)
    dense.to(device)
    progress(Progress("reading calibration text" if calibration else "writing calibration text", 0, 1, 0, ""))
    ranking = _PART_WINDOWS if subject.rank else 0
    windows = _load(decoder, tokenizer, calibration, settings, output, parts=ranking, split=split, samples=samples)
    ranked = None
    if subject.rank:
        progress(Progress("ranking parts of modules", 0, 1, 0, ""))
        ranked = subject.rank(windows.parts)
    makers = {
        fidelity: _maker(objective, decoder, subject, part, settings, ranked=ranked, shared=shared)
        for fidelity, part in ((RANK, windows.rank), (RERANK, windows.rerank), (CONFIRM, windows.confirm))
    }
    if overwrite or not os.path.lexists(output / JOURNAL):
        first = makers[RANK]()  # an objective that cannot be made is refused before there is a journal
        makers[RANK] = lambda: first
    header = {
        "model": reference.fingerprint,
        "space": space,
        "objective": objective,
        "calibration": windows.source["hash"],
        "dtype": str(dense.dtype).removeprefix("torch."),
        "device": torch.device(device).type,
    }
    header |= subject.header | settings.model_dump(mode="json")
    resumed = resume and os.path.lexists(output / JOURNAL)
    with Journal.open(output / JOURNAL, header, resume=resume, overwrite=overwrite) as journal:
        measure = JournaledMeasure(journal, subject.space, makers, settings.batch)
        progress(Progress("preparing", 0, 1, 0, ""))
        start = subject.start(journal, windows.rank, ranked)
        result = train(
            subject.space,
            measure,
            scalarization,
            settings,
            progress,
            first=start.first,
            prior=start.prior,
            groups=subject.groups,
        )
        spent = {
            "evaluation_tokens": journal.tokens_spent() + start.tokens,
            "evaluation_seconds": round(journal.seconds_spent(), 2),
        }
    seconds = round(time.perf_counter() - started, 2)
    provenance = {
        "command": command,
        "seed": settings.seed,
        **spent,
        **({"start_tokens": start.tokens} if start.tokens else {}),
        "evaluations": {RANK: len(result.ranked), RERANK: len(result.reranked), CONFIRM: len(result.confirmed)},
        "seconds": seconds,  # of this process; the evaluations' are those of all runs that the journal has seen
        "resumed": resumed,
        "epochs": result.epochs,
        "interrupted": result.interrupted,
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "settings": settings.model_dump(mode="json"),
        "calibration": windows.source,
        **({"levels": subject.header, "coverage": round(subject.coverage, 4)} if subject.levels else {}),
        **({"parts": subject.header} if ranked else {}),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    record = build_record(
        result,
        subject.space,
        name=output.resolve().name,
        model=reference,
        objective=objective,
        settings=settings,
        sizes=subject.sizes,
        provenance=provenance,
    )
    net = {name: value.detach().float().contiguous() for name, value in result.net.state_dict().items()}
    tensors = {"stratnet": net, "surrogate": result.posterior.to_tensors()}
    write_profile(output, record, tensors | ({"parts": ranked.to_tensors()} if ranked else {}))
    return load_profile(output)


def _check_output(output: Path, *, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise JournalError("resume and overwrite exclude each other: one continues a run, the other discards it")
    if output.exists() and not output.is_dir():
        raise ProfileError(f"output must be a folder, got the file {output}")
    there = [name for name in (RECORD, JOURNAL) if os.path.lexists(output / name)]
    # Now rather than when all is measured; the journal is looked at when its lock is held.
    if (resume or overwrite) and RECORD in there and not is_profile(output / RECORD):
        raise ProfileError(
            f"{output / RECORD} is not a profile of unicuco-plugin; it will not be replaced: move it away, or choose "
            "another output"
        )
    if there and not (resume or overwrite):
        raise ProfileError(
            f"output {output} already holds {' and '.join(there)}; pass --resume to continue that run, --overwrite to "
            "replace it, or choose another output"
        )


def _load(
    decoder: Decoder,
    tokenizer: Any,  # noqa: ANN401 - a Transformers tokenizer
    calibration: Sequence[str],
    settings: Settings,
    output: Path,
    *,
    parts: int,
    split: str,
    samples: int | None,
) -> _Windows:
    """Draw disjoint windows for every fidelity from one shuffled lot."""
    rank = settings.rank_tokens // settings.rank_seq_length
    confirm = settings.tokens // settings.seq_length
    rerank = rank if settings.rerank else 0
    count = rank + rerank + confirm + parts
    length = max(settings.seq_length, settings.rank_seq_length)
    if calibration:
        drawn = load_windows(
            calibration,
            tokenizer,
            count=count,
            length=length,
            seed=settings.seed,
            split=split,
            samples=samples,
            reach=Reach.of(decoder.model),
        )
    else:
        drawn = generate_windows(
            decoder.model, tokenizer, count=count, length=length, seed=settings.seed, cache_dir=own_cache(output)
        )
    lots = drawn.split([rank, rerank, confirm, parts])
    source = {"sources": list(calibration) or ["self-generated"], "hash": calibration_hash(drawn), "windows": count}
    return _Windows(
        lots[0][:, : settings.rank_seq_length],
        lots[1][:, : settings.rank_seq_length],
        lots[2][:, : settings.seq_length],
        lots[3],
        source,
    )


def _maker(
    objective: str,
    decoder: Decoder,
    subject: Subject,
    windows: Tensor,
    settings: Settings,
    *,
    ranked: RankedParts | None,
    shared: Shared | None,
) -> Callable[[], Objective]:
    request = ObjectiveRequest(
        decoder, subject.space, windows, settings.direction, settings.batch_windows, subject.levels, ranked
    )
    if shared is None:
        return lambda: make_objective(objective, request)
    what = [objective, settings.direction, calibration_hash(windows), subject.space.name, subject.header]
    identity = json.dumps(what, sort_keys=True)
    return lambda: RememberedObjective(
        lambda: make_objective(objective, request), shared.journal, subject.space, identity, shared.spent
    )
