"""Windows of tokens to calibrate on, cut evenly from the user's text."""

import hashlib
from collections.abc import Sequence
from itertools import chain, groupby, islice
from pathlib import Path

import torch
from torch import Tensor

from unicuco_plugin.errors import CalibrationError
from unicuco_plugin.models.loading import Tokenizer
from unicuco_plugin.models.reach import Reach
from unicuco_plugin.texts.documents import Document, read_documents

__all__ = ["calibration_hash", "load_windows"]

# Text beyond this many characters per window token is not tokenised: many times what windows need (about 4 per token in
# English, 1 in Chinese), so that they still come from all over a source.
_CHARACTERS = 64
# Tokenising 4 M characters takes a few seconds; below that nothing is left out.
_ENOUGH = 4_000_000
# Documents tokenised at a time: enough to keep the tokenizer busy.
_BATCH = 256


def load_windows(
    sources: Sequence[str | Path],
    tokenizer: Tokenizer,
    *,
    count: int,
    length: int,
    seed: int,
    split: str = "train",
    samples: int | None = None,
    reach: Reach | None = None,
) -> Tensor:
    """Cut windows of tokens evenly from all sources, without overlap.

    Every source gives its share of windows. Its documents are tokenised in order and joined; each window is placed
    at random in a stretch of its own. Windows are returned shuffled, so that any part of them draws on all sources.

    Args:
        sources: Text files, JSONL files, or folders or names that ``datasets`` opens.
        tokenizer: The model's tokenizer.
        count: How many windows, at least 1.
        length: Tokens per window, at least 2.
        seed: Decides where in its stretch each window lies, and the order.
        split: Which split of a dataset.
        samples: The most documents to take from each source; all by default.
        reach: What the model can be given; by default windows are not checked against a model.

    Returns:
        A ``count x length`` int64 tensor of token ids, on the CPU.

    Raises:
        CalibrationError: If a number is out of range, a source is missing, unreadable, not UTF-8, or too short, or
            windows are longer or have other tokens than the model can be given.
    """
    if not sources:
        raise CalibrationError("calibration needs at least one source, got none")
    _check_numbers(count, length, samples)
    reach = reach or Reach()
    reach.check_length(length)
    generator = torch.Generator().manual_seed(seed)
    windows = []
    for index, source in enumerate(sources):
        share = count // len(sources) + (index < count % len(sources))
        if share:
            tokens = _tokenise(source, tokenizer, share * length, split=split, samples=samples)
            windows.append(_cut(tokens, share, length, generator))
    joined = torch.cat(windows)
    if reach.rows is not None:
        reach.check_tokens(joined, len(tokenizer))
    return joined[torch.randperm(count, generator=generator)]


def calibration_hash(windows: Tensor) -> str:
    """Name windows by their content: 16 hexadecimal digits of SHA-256 over shape and ids.

    Args:
        windows: A ``count x length`` integer tensor of token ids.
    """
    ids = windows.to(device="cpu", dtype=torch.int64).contiguous()
    digest = hashlib.sha256(str(tuple(ids.shape)).encode())
    digest.update(ids.numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_numbers(count: int, length: int, samples: int | None) -> None:
    for name, value, least in (("count", count, 1), ("length", length, 2), ("samples", samples, 1)):
        if value is not None and value < least:
            raise CalibrationError(f"{name} must be at least {least}, got {value}")


def _tokenise(source: str | Path, tokenizer: Tokenizer, needed: int, *, split: str, samples: int | None) -> Tensor:
    documents = list(read_documents(source, tokenizer, split=split, samples=samples))
    thinned = _thin(documents, max(_ENOUGH, _CHARACTERS * needed))
    ids = _encode(thinned, tokenizer)
    if len(ids) < needed and len(thinned) < len(documents):
        ids = _encode(documents, tokenizer)
    if len(ids) < needed:
        raise CalibrationError(
            f"calibration source {source} is too short: needs {needed} tokens, has {len(ids)}; give more text, or ask "
            "for fewer or shorter windows"
        )
    return torch.tensor(ids, dtype=torch.int64)


def _thin(documents: list[Document], characters: int) -> list[Document]:
    """Keep every n-th document of a source that is far longer than its windows need."""
    step = sum(len(document.text) for document in documents) // characters
    return documents[:: max(step, 1)]


def _encode(documents: list[Document], tokenizer: Tokenizer) -> list[int]:
    ids: list[int] = []
    for templated, run in groupby(documents, key=lambda document: document.templated):
        while texts := [document.text for document in islice(run, _BATCH)]:
            # verbose=False: a document longer than the model's context is no mistake here.
            encoded = tokenizer(texts, add_special_tokens=not templated, verbose=False)["input_ids"]
            ids.extend(chain.from_iterable(encoded))
    return ids


def _cut(tokens: Tensor, count: int, length: int, generator: torch.Generator) -> Tensor:
    """Cut one window from each of ``count`` equal stretches."""
    total = len(tokens)
    windows = []
    for index in range(count):
        first, last = index * total // count, (index + 1) * total // count
        start = first + int(torch.randint(last - first - length + 1, (1,), generator=generator))
        windows.append(tokens[start : start + length])
    return torch.stack(windows)
