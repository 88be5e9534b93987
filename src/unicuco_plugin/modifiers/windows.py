"""Calibration windows taken back out of what the toolkit calibrates with."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from unicuco_plugin.errors import CalibrationError

__all__ = ["gather_windows"]


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
        raise CalibrationError("calibration data must have at least one sample, got none")
    if len(lengths) == 1:
        return torch.stack(samples)
    joined, length = torch.cat(samples), max(lengths)
    return joined[: len(joined) // length * length].view(-1, length)
