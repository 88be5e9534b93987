"""Calibration windows taken back out of what the toolkit calibrates with."""

from collections.abc import Iterable, Mapping, Sized
from typing import Any

import torch
from torch import Tensor

from unicuco_plugin.errors import CalibrationError

__all__ = ["check_samples", "gather_windows"]

# The toolkit takes away every column that it does not read, and with the last column all samples.
_EMPTY = (
    "calibration data must have at least one sample, got none; llm-compressor reads columns text or input_ids alone: "
    "write messages as text first by tokenizer.apply_chat_template(row['messages'], tokenize=False)"
)


def check_samples(batches: object) -> None:
    """Refuse a data loader of the toolkit's without samples, on which its passes stop without a word.

    Args:
        batches: The toolkit's calibration data, if there is any.

    Raises:
        CalibrationError: If it has a length, and that is 0.
    """
    if isinstance(batches, Sized) and len(batches) == 0:
        raise CalibrationError(_EMPTY)


def gather_windows(batches: Iterable[Mapping[str, Any]]) -> Tensor:
    """Collect the token ids of a data loader.

    Samples of one length are the windows. Samples of several lengths are joined in their order, as ``unicuco`` joins
    documents, and cut into windows of the longest; what is left over at the end is not used.

    Args:
        batches: Each with ``input_ids``, ``b x L``, and perhaps ``attention_mask``, 0 where a sample is padded.

    Returns:
        ``m x L`` token ids on the CPU.

    Raises:
        CalibrationError: If there is no sample, or a batch has no token ids.
    """
    samples = []
    for batch in batches:
        if "input_ids" not in batch:
            raise CalibrationError(f"calibration data must have input_ids, got {', '.join(batch) or 'nothing'}")
        ids = torch.as_tensor(batch["input_ids"]).cpu()
        mask = torch.as_tensor(batch.get("attention_mask", torch.ones_like(ids))).cpu().bool()
        samples += [row[kept] for row, kept in zip(ids, mask, strict=True)]
    lengths = {len(sample) for sample in samples}
    if not lengths or lengths == {0}:
        raise CalibrationError(_EMPTY)
    if len(lengths) == 1:
        return torch.stack(samples)
    joined, length = torch.cat(samples), max(lengths)
    return joined[: len(joined) // length * length].view(-1, length)
