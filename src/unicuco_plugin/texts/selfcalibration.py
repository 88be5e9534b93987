"""Windows that the model writes itself, for users who have no text that resembles its training data.

Source: Williams, Chrysostomou and Aletras, "Self-calibration for Language Model Quantization and Pruning"
(arXiv 2410.17170): sample from the dense model, from the beginning-of-sequence token alone. The temperatures are ours.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedModel

from unicuco_plugin.errors import CalibrationError
from unicuco_plugin.files.draft import remove_drafts, write_whole
from unicuco_plugin.files.names import check_own_folder
from unicuco_plugin.files.received import read_bytes
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.loading import Tokenizer
from unicuco_plugin.models.reach import Reach
from unicuco_plugin.models.tensors.memory import Fitting, spare_memory
from unicuco_plugin.models.tensors.storage import compute_device, is_offloaded, resident

__all__ = ["generate_windows", "own_cache"]

# Windows sampled together, and the unit of the cache. Sampling a token reads all weights once however many windows
# there are: SmolLM2 on one core takes 0.12 s for 8 and 0.17 s for 32. A small request still waits for a whole batch.
_BATCH = 16
# Batches sampled together where weights wait in memory or files, each block of which is then read once for all: as many
# as the default number of windows takes. Positions on which that is tried out.
_TOGETHER, _PROBED = 8, 3
# Bytes of a batch of windows of a million tokens.
_LARGEST = 2**28
# Temperature falls linearly from the first to the second over the first tokens, then stays: otherwise most windows
# would begin alike. A plain choice, not tuned: the model's own distribution from the tenth token on.
_HOT, _COOL, _COOLING = 2.0, 1.0, 10

# From the last tokens of some batches, ``b x 1`` each, and their caches, which it brings up to date, to logits.
_Step: TypeAlias = Callable[[Sequence[Tensor], list[Any]], list[Tensor]]


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
    paths = [folder / f"{stem}-{index}.safetensors" for index in range(-(-count // _BATCH))]
    batches = [_read(path, length, model.get_input_embeddings().num_embeddings) for path in paths]
    missing = [index for index, batch in enumerate(batches) if batch is None]
    together, step = (missing and _by_blocks(model, length)) or (1, partial(_whole, model))
    fitting = Fitting(together, (f"batch of {_BATCH} windows", "batches are sampled"), lower)

    def sample(size: int) -> list[Tensor]:
        return _sample(model, tokenizer, length, [_mix(seed, index) for index in missing[:size]], step)

    while missing:
        for batch in fitting(sample, len(missing)):
            index = missing.pop(0)
            batches[index] = batch
            _write(paths[index], batch)
    return torch.cat([batch for batch in batches if batch is not None])[:count]


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
def _sample(
    model: PreTrainedModel, tokenizer: Tokenizer, length: int, seeds: Sequence[int], step: _Step
) -> list[Tensor]:
    """Sample a ``_BATCH x length`` tensor of token ids for each seed, all of them one position at a time."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    ids = [torch.full((_BATCH, length), _first_token(model, tokenizer), dtype=torch.int64) for _ in seeds]
    caches: list[Any] = [None for _ in seeds]
    for position in range(1, length):
        temperature = _HOT + (_COOL - _HOT) * min(position / _COOLING, 1.0)
        tokens = [own[:, position - 1 : position].to(compute_device(model)) for own in ids]
        for own, found, generator in zip(ids, step(tokens, caches), generators, strict=True):
            # Drawn on the CPU, so that one seed means one sequence of draws on every device.
            logits = found[:, -1, : len(tokenizer)].float().cpu()
            own[:, position] = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
    return ids


def _whole(model: PreTrainedModel, tokens: Sequence[Tensor], caches: list[Any]) -> list[Tensor]:
    """Logits of the next position of each batch, from the model's own forward."""
    outputs = [
        model(input_ids=own, past_key_values=cache, use_cache=True) for own, cache in zip(tokens, caches, strict=True)
    ]
    caches[:] = [output.past_key_values for output in outputs]
    return [output.logits for output in outputs]


def _streamed(runner: BlockRunner, tokens: Sequence[Tensor], caches: list[Any]) -> list[Tensor]:
    """The same, where each block is read once for all batches."""
    entered = [
        runner.enter(own, past_key_values=cache, use_cache=True) for own, cache in zip(tokens, caches, strict=True)
    ]
    caches[:] = [output.past_key_values for _, _, output in entered]
    states = [own for own, _, _ in entered]
    for index in range(len(runner.decoder.blocks)):
        with resident():  # nothing but this block is run
            states = [runner.call(index, own, calls[index]) for own, (_, calls, _) in zip(states, entered, strict=True)]
    return [runner.logits(own) for own in states]


@torch.inference_mode()
def _by_blocks(model: PreTrainedModel, length: int) -> tuple[int, _Step] | None:
    """How many batches are sampled together where blocks wait, and how; None where that gives other numbers.

    Some models note in a cache, behind their last block, that it has been filled. Caches of all batches exist at a
    time, so there are as many as there is memory to spare: a host that is full kills who asks for more.
    """
    if not is_offloaded(model):
        return None
    with suppress(Exception):  # whatever a family raises whose blocks cannot be run one by one
        step = partial(_streamed, BlockRunner(find_decoder(model), _PROBED))
        caches: tuple[list[Any], list[Any]] = ([None], [None])
        tokens = torch.arange(2 * _PROBED, device=compute_device(model)).view(_PROBED, 2, 1)
        if all(torch.equal(_whole(model, [own], caches[0])[0], step([own], caches[1])[0]) for own in tokens):
            batch = _cache_bytes(caches[1][0]) / tokens[0].numel() / _PROBED * _BATCH * length
            room = spare_memory(compute_device(model)) / max(batch, 1.0)
            return max(1, int(min(room, _TOGETHER))), step
    return None


def _cache_bytes(cache: Any) -> int:  # noqa: ANN401 - Transformers' caches are of many kinds
    """Bytes of the keys and values that a cache holds."""
    held = [value for layer in getattr(cache, "layers", ()) for value in vars(layer).values()]
    return sum(value.numel() * value.element_size() for value in held if isinstance(value, Tensor))


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
