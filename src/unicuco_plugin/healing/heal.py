"""From a compressed checkpoint and the dense model to a healed checkpoint: the function behind ``unicuco heal``."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from unicuco_plugin.errors import ExportError, JournalError, ModelMismatchError, UnsupportedModelError, clip
from unicuco_plugin.evaluation.comparison import Estimate, compare_models
from unicuco_plugin.files.received import parse_json, read_text
from unicuco_plugin.healing.adapters import adapter_weights, add_adapters, find_adaptable, require_peft
from unicuco_plugin.healing.folder import carried_files, weight_bytes, write_folder
from unicuco_plugin.healing.learning import Learning, Look
from unicuco_plugin.healing.settings import HealingSettings
from unicuco_plugin.healing.targets import Targets
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.loading import display_name, load_model, load_tokenizer
from unicuco_plugin.models.output_folder import check_output, check_room
from unicuco_plugin.models.placement import Offload
from unicuco_plugin.models.reach import Reach
from unicuco_plugin.models.staging import staged_folder
from unicuco_plugin.progress import Progress
from unicuco_plugin.texts.calibration import calibration_hash, load_windows
from unicuco_plugin.texts.selfcalibration import generate_windows, own_cache

__all__ = ["Healed", "heal"]

_STATE = "state.safetensors"


@dataclass(frozen=True)
class Healed:
    """What came of a healing.

    Attributes:
        path: The checkpoint.
        before, after: Mean KL(dense‖compressed) on windows that neither taught nor chose, nats per token.
        look: When the adapters that were merged were best, on the windows that choose.
        seconds: Of this run.
        note: What the user should know of the checkpoint; may be empty.
    """

    path: Path
    before: Estimate
    after: Estimate
    look: Look
    seconds: float
    note: str


def heal(
    checkpoint: str | Path,
    teacher: str | Path,
    output: str | Path,
    *,
    settings: HealingSettings | None = None,
    calibration: Sequence[str | Path] = (),
    split: str = "train",
    work: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    offload: Offload = "none",
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Healed:
    """Teach a compressed model the dense one's distribution with low-rank adapters, and merge these.

    Args:
        checkpoint: A folder that Transformers or :func:`unicuco_plugin.load` loads, neither quantised nor sparse.
        teacher: The dense model.
        output: The folder to write.
        settings: How much is learned, and how.
        calibration: Text to learn from; without any the dense model writes it.
        split: Which split of a dataset.
        work: Where the dense model's logits and the state of an unfinished run are kept; beside ``output`` by default.
        resume: Continue the run in ``work``.
        overwrite: Replace an older checkpoint at ``output``.
        dtype: What is computed in; the checkpoint keeps its own.
        device: Where.
        offload: Where the dense model's blocks wait until they are needed.
        revision: The dense model's branch, tag or commit on the hub.
        trust_remote_code: Whether code in the dense model's repository may run.
        progress: Told what is done, in windows.

    Raises:
        UnsupportedModelError: If a model cannot be loaded, or adapters cannot be merged into this checkpoint.
        ModelMismatchError: If the two models have not the same tokens.
        CalibrationError: If the text is missing or too short, or the dense model's logits cannot be kept.
        JournalError: If ``work`` holds a run that was not asked for, or one of other arguments.
        EvaluationError: If peft is missing, something is not finite, or memory has no room for one window.
        ExportError: If ``output`` may not be written, or nothing was gained; then nothing is.
    """
    began, settings = time.perf_counter(), settings or HealingSettings()
    checkpoint, output = Path(checkpoint), Path(output)
    work = output.with_name(f"{output.name}.healing") if work is None else Path(work)
    require_peft()
    _check_checkpoint(checkpoint)
    names = carried_files(checkpoint)
    check_output(output, overwrite=overwrite, inputs=(checkpoint, teacher, *calibration))
    need = weight_bytes(checkpoint)
    check_room(output, need)
    state = work / _STATE
    if state.exists() and not resume:
        raise JournalError(f"state {state} exists: pass --resume to continue that run, or remove it to begin anew")
    place: dict[str, Any] = {"dtype": dtype, "device": device}
    model = load_model(checkpoint, **place, prunable=False)
    hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    dense, tokenizer = (
        load_model(teacher, **hub, **place, offload=offload, prunable=False),
        load_tokenizer(teacher, **hub),
    )
    _check_tokens(model, dense)
    own = fingerprint(model)
    wrapped = add_adapters(model, find_adaptable(model, str(checkpoint)), settings.rank, settings.seed)
    counts = [settings.choosing + settings.windows, settings.confirming]
    how = {"count": sum(counts), "length": settings.seq_length, "seed": settings.seed}
    if calibration:
        drawn = load_windows(calibration, tokenizer, split=split, reach=Reach.of(dense), **how)
    else:
        drawn = generate_windows(dense, tokenizer, cache_dir=own_cache(work), **how)
    windows, confirming = drawn.split(counts)
    key = "-".join([str(fingerprint(dense)), calibration_hash(windows), str(settings.top_k)])
    targets = Targets(work / key, windows, settings.top_k)
    total = len(windows) + settings.windows
    targets.prepare(dense, lambda done: progress(Progress("dense model", done, total)))
    before = _measure(dense, model, confirming)
    whose = f"{key}-{own}-{settings.model_dump_json()}"
    learning = Learning(wrapped, adapter_weights(wrapped), targets, settings, state, whose)
    learning.resume()

    def report(done: int, look: Look | None) -> None:
        message = "" if look is None else f"{look.tokens:,} tokens: divergence {look.divergence:.4f}"
        progress(Progress("healing", len(windows) + done, total, message=message))

    look = learning.run(report)
    merged = wrapped.merge_and_unload()
    written = load_model(checkpoint, prunable=False)
    _round(merged, written)
    after = _measure(dense, merged, confirming)
    if look.step == 0 or not after.mean < before.mean:
        state.unlink(missing_ok=True)  # nothing of it is left to go on with
        raise ExportError(
            f"{output}: not written, for the divergence on held-out windows did not fall ("
            f"{before.mean:.4f} to {after.mean:.4f}): give more --tokens, or a smaller "
            f"--learning-rate than {settings.learning_rate:g}"
        )
    record = {
        "title": output.name,
        "teacher": display_name(teacher),
        "settings": settings.model_dump(),
        "before": asdict(before),
        "after": asdict(after),
        "looks": [asdict(seen) for seen in learning.looks],
        "text": _describe(display_name(teacher), settings, look, before, after),
    }
    with staged_folder(output, overwrite=overwrite, need=need) as stage:
        note = write_folder(stage, written, checkpoint, names, record)
    state.unlink(missing_ok=True)
    return Healed(output, before, after, look, time.perf_counter() - began, note)


def _check_checkpoint(checkpoint: Path) -> None:
    if not checkpoint.is_dir():
        raise UnsupportedModelError(f"{checkpoint}: must be a checkpoint's folder, for instance of unicuco prune")
    try:
        config = parse_json(read_text(checkpoint / "config.json"), infinite=True)
    except (OSError, ValueError) as error:
        raise UnsupportedModelError(f"{checkpoint}: its config.json cannot be read: {clip(str(error))}") from error
    if isinstance(config, dict) and config.get("quantization_config") is not None:
        raise UnsupportedModelError(
            f"{checkpoint}: is quantised, and adapters cannot be merged into codes: heal it before it is quantised"
        )


def _check_tokens(model: nn.Module, dense: nn.Module) -> None:
    rows = [len(own.get_input_embeddings().weight) for own in (model, dense)]  # type: ignore[operator]
    if rows[0] != rows[1]:
        raise ModelMismatchError(
            f"--teacher must have the checkpoint's {rows[0]:,} tokens, got {rows[1]:,}: give the one it was made of"
        )


def _measure(dense: nn.Module, model: nn.Module, windows: Tensor) -> Estimate:
    return cast(Estimate, compare_models(dense, model, windows).divergence)


@torch.no_grad()
def _round(merged: nn.Module, written: nn.Module) -> None:
    """Put weights into the model that is written, in its dtype, and what this made of them back."""
    own = merged.state_dict()
    for name, tensor in written.state_dict().items():
        tensor.copy_(own[name])
        own[name].copy_(tensor)


def _describe(teacher: str, settings: HealingSettings, look: Look, before: Estimate, after: Estimate) -> str:
    """A sentence for the model card."""
    return (
        f"Low-rank adapters (rank {settings.rank}) learned the distribution of the dense model ({teacher}) on "
        f"{look.tokens:,} tokens and were merged into the weights. Mean KL(dense‖pruned) on {settings.confirming} "
        f"held-out windows of {settings.seq_length} tokens: {before.mean:.4f} before, {after.mean:.4f} ± "
        f"{after.standard_error:.4f} after, in nats per token. What is said above of divergence and recipe is of the "
        "checkpoint before."
    )
