"""Norms that the toolkit rounds on their way through calibration, made exact again."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from compressed_tensors.registry import standardize_lookup_name
from llmcompressor.modeling.offset_norm import NormCalibrationModule
from torch import nn

from unicuco_plugin.models.tensors.storage import read_kept, write_tensor

__all__ = ["exact_norms"]


@contextmanager
def exact_norms(model: nn.Module) -> Iterator[None]:
    """Undo, when the ``with`` ends, what the toolkit's swap of norms alone did to their weights.

    For Gemma and others the toolkit calibrates with ``1 + weight`` and subtracts the one again. In bfloat16 that
    rounds away most digits of a small weight. A norm that a modifier really changed keeps its new weight.

    Args:
        model: The model, before the toolkit has it.
    """
    swapped = {standardize_lookup_name(name) for name in NormCalibrationModule.registered_names()}
    swapped |= {standardize_lookup_name(name) for name in NormCalibrationModule.registered_aliases()}
    norms = [
        (module, read_kept(module, "weight").clone())
        for module in model.modules()
        if standardize_lookup_name(type(module).__name__) in swapped and "weight" in module._parameters
    ]
    try:
        yield
    finally:
        for module, before in norms:
            rounded = ((1.0 + before.float()).to(before.dtype).float() - 1.0).to(before.dtype)
            if torch.equal(read_kept(module, "weight"), rounded):
                write_tensor(module, "weight", before)
