"""Windows that the model writes itself, for users who have no text that resembles its training data.

Source: Williams, Chrysostomou and Aletras, "Self-calibration for Language Model Quantization and Pruning"
(arXiv 2410.17170): sample from the dense model, from the beginning-of-sequence token alone. The temperatures are ours.
"""

from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedModel

from unicuco_plugin.errors import CalibrationError
from unicuco_plugin.files.draft import remove_drafts, write_whole
from unicuco_plugin.files.names import check_own_folder
from unicuco_plugin.files.received import read_bytes
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.loading import Tokenizer
from unicuco_plugin.models.reach import Reach
from unicuco_plugin.models.tensors.memory import Fitting
from unicuco_plugin.models.tensors.storage import compute_device

__all__ = ["generate_windows", "own_cache"]

# Windows sampled together, and the unit of the cache. Sampling a token reads all weights once however many windows
# there are: SmolLM2 on one core takes 0.12 s for 8 and 0.17 s for 32. A small request still waits for a whole batch.
_BATCH = 16
# Bytes of a batch of windows of a million tokens.
_LARGEST = 2**28
# Temperature falls linearly from the first to the second over the first tokens, then stays: otherwise most windows
# would begin alike. A plain choice, not tuned: the model's own distribution from the tenth token on.
_HOT, _COOL, _COOLING = 2.0, 1.0, 10


def generate_windows(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    *,
    count: int,
    length: int,
    seed: int,
    cache_dir: Path,
) -> Tensor:
    """Sample calibration windows from the dense model itself.

    Windows are cached in batches by model, seed and length: asking for more of them later samples only the rest.

    Args:
        model: The dense model, in evaluation mode, on any device.
        tokenizer: Its tokenizer; tokens that it cannot spell are never sampled.
        count: Windows, at least 1.
        length: Tokens in a window, at least 2, the first being the beginning-of-sequence token.
        seed: Decides every token, with the device and dtype; no global generator is touched.
        cache_dir: Where batches are kept, as safetensors.

    Returns:
        A ``count x length`` int64 tensor of token ids, on the CPU.

    Raises:
        CalibrationError: If ``count`` or ``length`` is out of range, the model cannot be given such windows, or
            ``cache_dir`` cannot be written.
        EvaluationError: If memory has no room for a batch of them.
    """
    for name, value, least in (("count", count, 1), ("length", length, 2)):
        if value < least:
            raise CalibrationError(f"{name} must be at least {least}, got {value}")
    reach = Reach.of(model)
    reach.check_length(length)
    reach.check_tokens(torch.tensor([_first_token(model, tokenizer)]))
    folder = Path(cache_dir).expanduser()
    stem = f"self-{fingerprint(model)}-{seed}-{length}"
    lower = "the tokens of a window, or give calibration text"
    fitting, batches = Fitting(1, (f"batch of {_BATCH} windows", "batches are sampled"), lower), []
    for index in range(-(-count // _BATCH)):
        path = folder / f"{stem}-{index}.safetensors"
        batch = _read(path, length, model.get_input_embeddings().num_embeddings)
        if batch is None:
            batch = fitting(partial(_sample, model, tokenizer, length, _mix(seed, index)))
            _write(path, batch)
        batches.append(batch)
    return torch.cat(batches)[:count]


def own_cache(output: Path) -> Path:
    """The folder ``calibration`` in an output, which need not exist.

    Raises:
        CalibrationError: If something else is there: a link in a received folder may lead anywhere.
    """
    try:
        return check_own_folder(output / "calibration")
    except OSError as error:
        raise CalibrationError(str(error)) from error


@torch.inference_mode()
def _sample(model: PreTrainedModel, tokenizer: Tokenizer, length: int, seed: int, _: int = 1) -> Tensor:
    """Sample a ``_BATCH x length`` tensor of token ids, one position at a time."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((_BATCH, length), _first_token(model, tokenizer), dtype=torch.int64)
    cache = None
    for position in range(1, length):
        tokens = ids[:, position - 1 : position].to(compute_device(model))
        output = model(input_ids=tokens, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        # Drawn on the CPU, so that one seed means one sequence of draws on every device.
        logits = output.logits[:, -1, : len(tokenizer)].float().cpu()
        temperature = _HOT + (_COOL - _HOT) * min(position / _COOLING, 1.0)
        ids[:, position] = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
    return ids


def _first_token(model: PreTrainedModel, tokenizer: Tokenizer) -> int:
    """The beginning-of-sequence token; families without one separate documents by the end token."""
    for token in (tokenizer.bos_token_id, model.config.bos_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    return 0


def _mix(seed: int, index: int) -> int:
    """A seed for one batch; batches of neighbouring seeds must not coincide."""
    return (seed * 1_000_003 + index) % 2**63


def _read(path: Path, length: int, tokens: int) -> Tensor | None:
    try:
        batch = load(read_bytes(path, largest=_LARGEST))["windows"]
    except (OSError, SafetensorError, KeyError):
        return None
    fits = tuple(batch.shape) == (_BATCH, length) and batch.dtype == torch.int64
    return batch if fits and int(batch.min()) >= 0 and int(batch.max()) < tokens else None


def _write(path: Path, batch: Tensor) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_drafts(path.parent, path.name)
        write_whole(path, save({"windows": batch.contiguous()}))
    except (OSError, SafetensorError) as error:
        raise CalibrationError(f"self-calibration cache {path.parent} cannot be written: {error}") from error
