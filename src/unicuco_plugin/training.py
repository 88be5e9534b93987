"""Training a profile for a model: load, calibrate, search, write."""

import importlib.metadata
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student_t
from torch import Tensor

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.errors import JournalError, ProfileError, UnsupportedModelError
from unicuco_plugin.models.calibration import calibration_hash, load_windows
from unicuco_plugin.models.decoder import Decoder, find_decoder
from unicuco_plugin.models.fingerprint import fingerprint
from unicuco_plugin.models.loading import load_model, load_tokenizer
from unicuco_plugin.models.selfcalibration import generate_windows
from unicuco_plugin.models.sizes import ModelSizes, measure_sizes
from unicuco_plugin.objectives.objective import Objective, ObjectiveRequest
from unicuco_plugin.plugins.manager import make_objective, make_scalarization, make_space
from unicuco_plugin.profile import RECORD, ArchiveEntry, Confirmation, ProfileRecord, SizeTable, write_profile
from unicuco_plugin.search.evidence import compare
from unicuco_plugin.search.journal import Journal, Measurement
from unicuco_plugin.search.measuring import CONFIRM, RANK, RERANK, JournaledMeasure
from unicuco_plugin.search.settings import Settings
from unicuco_plugin.search.trainer import Progress, TrainingResult, train
from unicuco_plugin.spaces.space import Space
from unicuco_plugin.strategy import ModelReference

__all__ = ["JOURNAL", "Progress", "train_profile"]

JOURNAL = "journal.sqlite"
_PACKAGES = ("unicuco-plugin", "torch", "transformers", "botorch", "gpytorch", "llmcompressor")


@dataclass(frozen=True)
class _Windows:
    """Disjoint calibration windows of each fidelity."""

    rank: Tensor
    rerank: Tensor
    confirm: Tensor
    source: dict[str, Any]


def train_profile(
    model: str | Path,
    output: Path,
    *,
    space: str = "depth",
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
    progress: Callable[[Progress], None] = lambda _: None,
) -> Profile:
    """Train a profile and write it to a folder, with a journal beside it that a killed run resumes from.

    Args:
        model: Folder or hub name of the dense model.
        output: The profile's folder; its name becomes the profile's.
        space: What is pruned, by plugin name.
        objective: What is measured, by plugin name.
        calibration: Text files, JSONL files, ``datasets`` names or folders; none lets the model write its own text.
        settings: How to train; the default preset if left out.
        device: Where the model runs, such as ``cpu`` or ``cuda``.
        dtype: The model's dtype; ``auto`` is the checkpoint's.
        revision: As in Transformers.
        trust_remote_code: As in Transformers.
        split: Which part of a dataset to read.
        samples: How many of its rows at most.
        resume: Continue the journal in ``output``.
        overwrite: Replace a profile and journal that are there.
        command: How this was called, for the provenance.
        progress: Called often.

    Returns:
        The profile as written. After Ctrl-C it holds what was known by then (``provenance["interrupted"]``).

    Raises:
        ProfileError: If ``output`` holds a profile or journal already and neither flag is given.
        UnsupportedModelError, CalibrationError, JournalError, UnknownNameError: See there.
        KeyboardInterrupt: If interrupted before anything usable was measured.
    """
    started = time.perf_counter()
    output = Path(output)
    settings = settings or Settings()
    scalarization = make_scalarization(settings.scalarization)
    _check_output(output, resume=resume, overwrite=overwrite)
    progress(Progress("loading the model", 0, 1, 0, ""))
    dense = load_model(model, revision=revision, trust_remote_code=trust_remote_code, dtype=dtype)
    decoder = find_decoder(dense)
    sizes = measure_sizes(decoder)
    _check_blocks(decoder, sizes)
    units = make_space(space, decoder.block_names, sizes.block_params)
    reference = ModelReference(name=_model_name(model), fingerprint=str(fingerprint(dense)))
    tokenizer = load_tokenizer(model, revision=revision, trust_remote_code=trust_remote_code)
    dense.to(device)
    progress(Progress("reading calibration text" if calibration else "writing calibration text", 0, 1, 0, ""))
    windows = _load(decoder, tokenizer, calibration, settings, output, split=split, samples=samples)
    makers = {
        fidelity: _maker(objective, decoder, units, part, settings)
        for fidelity, part in ((RANK, windows.rank), (RERANK, windows.rerank), (CONFIRM, windows.confirm))
    }
    header = {
        "model": reference.fingerprint,
        "space": space,
        "objective": objective,
        "calibration": windows.source["hash"],
        "dtype": str(dense.dtype).removeprefix("torch."),
        "device": torch.device(device).type,
    } | settings.model_dump(mode="json")
    if overwrite:
        (output / JOURNAL).unlink(missing_ok=True)
    resumed = (output / JOURNAL).exists()
    with Journal.open(output / JOURNAL, header, resume=resume) as journal:
        measure = JournaledMeasure(journal, units, makers, settings.batch)
        result = train(units, measure, scalarization, settings, progress)
        spent = {"evaluation_tokens": journal.tokens_spent(), "evaluation_seconds": round(journal.seconds_spent(), 2)}
    seconds = round(time.perf_counter() - started, 2)
    provenance = {
        "command": command,
        "seed": settings.seed,
        **spent,
        "evaluations": {RANK: len(result.ranked), RERANK: len(result.reranked), CONFIRM: len(result.confirmed)},
        "seconds": seconds,  # of this process; the evaluations' are those of all runs that the journal has seen
        "resumed": resumed,
        "epochs": result.epochs,
        "interrupted": result.interrupted,
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "settings": settings.model_dump(mode="json"),
        "calibration": windows.source,
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    confirmed = compare(units, result.posterior, result.confirmed)
    reranked = compare(units, result.posterior, result.reranked)
    record = ProfileRecord(
        name=output.resolve().name,
        model=reference,
        space=space,
        objective=objective,
        scalarization=settings.scalarization,
        quality=settings.quality,
        target=result.posterior.target,
        units=units.units,
        sizes=SizeTable(
            unit_params=sizes.block_params,
            unit_bytes=sizes.block_bytes,
            total_params=sizes.total_params,
            total_bytes=sizes.total_bytes,
            dtype=sizes.dtype,
        ),
        ideal=result.scaling.ideal,
        nadir=result.scaling.nadir,
        shift=confirmed.shift,
        shift_std=confirmed.noise,
        reranked_shift=reranked.shift,
        noise=reranked.noise,
        archive=_archive(result, units),
        provenance=provenance,
    )
    net = {name: value.detach().float().contiguous() for name, value in result.net.state_dict().items()}
    write_profile(output, record, {"stratnet": net, "surrogate": result.posterior.to_tensors()})
    return load_profile(output)


def _check_blocks(decoder: Decoder, sizes: ModelSizes) -> None:
    """Refuse models whose budgets the search cannot spend block by block."""
    name = type(decoder.model).__name__
    if len(sizes.block_params) < 2:
        raise UnsupportedModelError(f"{name}: a profile needs two or more blocks, got {len(sizes.block_params)}")
    if len(set(sizes.block_params)) > 1:
        raise UnsupportedModelError(
            f"{name}: a profile needs blocks of one size, got {min(sizes.block_params)} to {max(sizes.block_params)} "
            "parameters; a strategy written by hand can still be applied"
        )


def _check_output(output: Path, *, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise JournalError("resume and overwrite exclude each other: one continues a run, the other forgets it")
    if output.exists() and not output.is_dir():
        raise ProfileError(f"output must be a folder, got the file {output}")
    there = [name for name in (RECORD, JOURNAL) if (output / name).exists()]
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
    split: str,
    samples: int | None,
) -> _Windows:
    """Draw disjoint windows for every fidelity from one shuffled lot."""
    rank = settings.rank_tokens // settings.rank_seq_length
    confirm = settings.tokens // settings.seq_length
    rerank = rank if settings.rerank else 0
    count = rank + rerank + confirm
    length = max(settings.seq_length, settings.rank_seq_length)
    if calibration:
        drawn = load_windows(
            calibration, tokenizer, count=count, length=length, seed=settings.seed, split=split, samples=samples
        )
    else:
        drawn = generate_windows(
            decoder.model, tokenizer, count=count, length=length, seed=settings.seed, cache_dir=output / "calibration"
        )
    parts = drawn.split([rank, rerank, confirm])
    source = {"sources": list(calibration) or ["self-generated"], "hash": calibration_hash(drawn), "windows": count}
    return _Windows(
        parts[0][:, : settings.rank_seq_length],
        parts[1][:, : settings.rank_seq_length],
        parts[2][:, : settings.seq_length],
        source,
    )


def _maker(
    objective: str, decoder: Decoder, space: Space, windows: Tensor, settings: Settings
) -> Callable[[], Objective]:
    request = ObjectiveRequest(decoder, space, windows, settings.direction, settings.batch_windows)
    return lambda: make_objective(objective, request)


def _archive(result: TrainingResult, space: Space) -> tuple[ArchiveEntry, ...]:
    """Every measured strategy once, with what ranking and confirming say of it."""
    confirmed = {row.key: row for row in result.confirmed}
    reranked = {row.key: row.value for row in result.reranked}
    ranked = {row.key: row.value for row in result.ranked}
    entries = []
    for key in {**ranked, **reranked, **confirmed}:
        x = space.parse(key)
        predicted = result.posterior.log_predict(x[None])[0].exp().item()
        row = confirmed.get(key)
        entries.append(
            ArchiveEntry(
                units=space.to_units(x),
                rank=ranked.get(key, predicted),
                measured=key in ranked,
                reranked=reranked.get(key),
                confirmed=Confirmation(mean=row.value, interval90=_interval(row)) if row else None,
            )
        )
    return tuple(entries)


def _interval(row: Measurement) -> tuple[float, float]:
    """Student's t interval of the mean over windows; one window says nothing of its own spread."""
    count = len(row.per_window)
    if count < 2:
        return (0.0, 2.0 * row.value)
    values = torch.tensor(row.per_window, dtype=torch.float64)
    half = float(student_t.ppf(0.95, count - 1)) * values.std().item() / math.sqrt(count)
    return (max(row.value - half, 0.0), row.value + half)


def _model_name(model: str | Path) -> str:
    """A folder's own name: where it lies on this machine says nothing to others. A hub name stays whole."""
    path = Path(model)
    return path.resolve().name if path.is_dir() else str(model)
