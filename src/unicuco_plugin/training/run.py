"""One run, from a model and text to a profile on disk."""

import importlib.metadata
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.costs.model import objective_cost
from unicuco_plugin.errors import JournalError, ProfileError
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.journal.measuring import CONFIRM, RANK, RERANK, JournaledMeasure
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.exportable import check_exportable
from unicuco_plugin.models.loading import display_name, load_config, load_tokenizer
from unicuco_plugin.models.tensors.storage import compute_device
from unicuco_plugin.plugins.manager import corrects, make_scalarization
from unicuco_plugin.plugins.objective import Site
from unicuco_plugin.profile import RECORD, is_profile, write_profile
from unicuco_plugin.progress import Progress
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.search.trainer import train
from unicuco_plugin.strategy import ModelReference
from unicuco_plugin.training.correcting import check_compensation, correcting, find_corrections
from unicuco_plugin.training.makers import objective_makers, objective_specs
from unicuco_plugin.training.outcome import build_record
from unicuco_plugin.training.setup import Setup, Workers
from unicuco_plugin.training.shared import Shared
from unicuco_plugin.training.source import CalibrationText, ModelSource
from unicuco_plugin.training.subject import UnitOptions
from unicuco_plugin.training.subjects.find import check_units, find_subject
from unicuco_plugin.training.windows import draw_windows

__all__ = ["JOURNAL", "Shared", "train_profile"]

JOURNAL = "journal.sqlite"
_PACKAGES = ("unicuco-plugin", "torch", "transformers", "botorch", "gpytorch", "llmcompressor")


def train_profile(
    model: str | Path | ModelSource,
    output: Path,
    *,
    space: str = "depth",
    units: UnitOptions | None = None,
    objective: str = "divergence",
    compensation: str | None = None,
    calibration: Sequence[str] | CalibrationText = (),
    settings: Settings | None = None,
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
    shared: Shared | None = None,
    workers: Workers | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Profile:
    """Train a profile and write it to a folder, beside a journal from which a killed run resumes.

    Args:
        model: Folder or hub name of the dense model, or a ``ModelSource`` that also says on which device, in which
            dtype and from which revision it is loaded.
        output: The profile's folder; its name becomes the profile's.
        space: What is pruned, by plugin name.
        units: The units of spaces that zero weights or cut parts.
        objective: What is measured, by plugin name.
        compensation: What dropped blocks are corrected with, by plugin name: candidates are measured with their
            corrections, and so is what the profile answers. None, or ``none``, corrects nothing.
        calibration: Text files, JSONL files, ``datasets`` names or folders, or a ``CalibrationText`` that also says
            which split and how many documents; none lets the model write its own text.
        settings: How to train; the default preset if left out.
        resume: Continue the journal in ``output``.
        overwrite: Replace an existing profile and journal.
        command: The command line, for the provenance.
        shared: What runs over the same model share, such as measurements.
        workers: Processes that measure candidates, such as ``RayWorkers``; none lets this one do it.
        progress: Called often.

    Returns:
        The profile as written. After Ctrl-C it holds what was known at that point (``provenance["interrupted"]``).

    Raises:
        ProfileError: If ``output`` holds a profile or journal already and neither flag is given.
        UnsupportedModelError, CalibrationError, JournalError, LevelsError, UnknownNameError: As these classes say.
        KeyboardInterrupt: If interrupted before the space has a surrogate; what was measured is in the journal.
    """
    started = time.perf_counter()
    source, text, output = ModelSource.of(model), CalibrationText.of(calibration), Path(output)
    units, settings = units or UnitOptions(), settings or Settings()
    scalarization = make_scalarization(settings.scalarization)
    check_units(space, units)
    check_compensation(compensation, space, biased=units.biased)
    _check_output(output, resume=resume, overwrite=overwrite)
    progress(Progress("loading the model", 0, 1, 0, ""))
    # What could not be exported in the end is refused before a weight is read.
    config = load_config(source.name, **source.hub)
    trust = source.trust_remote_code
    check_exportable(config, space, format=units.form, compensate=units.biased, trust_remote_code=trust)
    dense = None if shared is None else shared.model
    if dense is None:
        dense = source.load(lambda text: progress(Progress("loading the model", 0, 1, message=text)))
    decoder = find_decoder(dense)
    reference = ModelReference(name=display_name(source.name), fingerprint=str(fingerprint(dense)))
    subject = find_subject(space, decoder, reference.fingerprint, units).in_dtype(config.dtype)
    own = {name: value for name, value in subject.defaults.items() if name not in settings.model_fields_set}
    settings = settings.model_copy(update=own)
    BlockRunner(decoder, settings.rank_seq_length)  # what cannot be run block by block is refused before text is read
    tokenizer = load_tokenizer(source.name, **source.hub)
    progress(Progress(f"{'reading' if text.sources else 'writing'} calibration text", 0, 1, 0, ""))
    windows = draw_windows(
        decoder,
        tokenizer,
        text,
        settings,
        output,
        ranking=subject.prepare is not None,
        correcting=corrects(compensation),
    )
    payload = None
    if subject.prepare:
        progress(Progress("ranking parts of modules", 0, 1, 0, ""))
        payload = subject.prepare(windows.parts)
    corrections = find_corrections(compensation, decoder, windows.corrections, settings.batch_windows, space=space)
    site = Site(decoder, reference.fingerprint, subject.levels, payload, corrections)
    specs = objective_specs(objective, subject, site, windows.fidelities, settings)
    makers = objective_makers(specs, subject, site, windows.fidelities, shared)
    if overwrite or not os.path.lexists(output / JOURNAL):
        first = makers[RANK]()  # an objective that cannot be made is refused before there is a journal
        makers[RANK] = lambda: first
    header = {
        "model": reference.fingerprint,
        "space": space,
        "objective": objective,
        "calibration": windows.source["hash"],
        "dtype": site.dtype,
        "device": site.device,
        **correcting(corrections),
        **subject.header,
        **settings.header,
    }
    resumed = resume and os.path.lexists(output / JOURNAL)
    setup = Setup(source.absolute, specs, windows.fidelities, payload, windows.corrections, settings.batch)
    with (
        setup.execute(workers, makers, lambda text: progress(Progress("measuring", 0, 1, 0, text))) as executor,
        Journal.open(output / JOURNAL, header, resume=resume, overwrite=overwrite) as journal,
    ):
        measure = JournaledMeasure(journal, subject.space, executor)
        progress(Progress("preparing", 0, 1, 0, ""))
        start = subject.start(journal, windows.fidelities[RANK], payload)
        result = train(
            subject.space,
            measure,
            scalarization,
            settings,
            progress,
            first=start.first,
            prior=start.prior,
            groups=subject.groups,
            plain=tuple(start.plain),
            cost=objective_cost(subject.costs),
        )
        spent = {
            "evaluation_tokens": journal.tokens_spent() + start.tokens + windows.corrections.numel(),
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
        "device": torch.cuda.get_device_name(compute_device(dense)) if site.device == "cuda" else site.device,
        "threads": torch.get_num_threads(),
        "settings": settings.model_dump(mode="json"),
        "calibration": windows.source,
        **({"levels": subject.header, "coverage": round(subject.coverage, 4)} if subject.levels else {}),
        **({payload.name: subject.header} if payload else {}),
        **correcting(corrections),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    record = build_record(
        result,
        subject.space,
        name=output.resolve().name,
        model=reference,
        objective=objective,
        settings=settings,
        sizes=subject.costs.table,
        plain=start.plain,
        compensation=None if corrections is None else corrections.name,
        provenance=provenance,
    )
    net = {name: value.detach().float().contiguous() for name, value in result.net.state_dict().items()}
    tensors = {"stratnet": net, "surrogate": result.posterior.to_tensors()}
    write_profile(output, record, tensors | ({payload.name: payload.tensors} if payload else {}))
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
