"""How many parameters and bytes a checkpoint has, and how many of them go with each block.

The bytes are those of ``*.safetensors`` on disk: eight bytes of length, a JSON header padded to eight with one entry a
tensor, then the tensors (https://github.com/huggingface/safetensors#format). Offsets in the header get shorter when
blocks go, so every entry is counted with the widest offsets it can have: a bound that holds for every set of dropped
blocks, and is a few bytes a tensor above the real file.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.experts import fused_shapes
from unicuco_plugin.models.tensors.storage import kept_tensors

__all__ = ["ModelSizes", "measure_sizes", "tensor_bytes"]

# Length, metadata that Transformers writes, and the most that padding can add.
_FILE = 8 + len('{"__metadata__":{"format":"pt"},}') + 7
# The smallest shard a checkpoint is split into (Transformers: 50 GB, older releases 5 GB); each costs a header.
_SHARD = 10**9


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of one model's checkpoint; tied parameters count once, where the checkpoint keeps them.

    Attributes:
        block_params: Parameters of each block.
        total_params: Parameters of the whole model.
        bytes_per_param: Bytes of one parameter in ``dtype``.
        dtype: The dtype of most parameters, such as ``"bfloat16"``.
        block_bytes: Bytes of the weight files that go with each block.
        total_bytes: Bytes of the weight files; ``total_bytes - sum(block_bytes[i] for dropped i)`` is never below the
            real size on disk.
    """

    block_params: tuple[int, ...]
    total_params: int
    bytes_per_param: int
    dtype: str
    block_bytes: tuple[int, ...]
    total_bytes: int


def measure_sizes(decoder: Decoder) -> ModelSizes:
    """Count parameters and bytes of a model's checkpoint, from shapes alone.

    Returns:
        The sizes in the dtype that the model has now.

    Raises:
        UnsupportedModelError: If the model has no floating-point parameter.
    """
    model = decoder.model
    tensors = _saved_tensors(model)
    digits = _digits(tensors)
    with kept_tensors():
        parameters, buffers = list(model.parameters()), dict(model.named_buffers())
    groups = [
        {key: tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")} for name in decoder.block_names
    ]
    inside = {key for group in groups for key in group}
    rest = {key: tensor for key, tensor in tensors.items() if key not in inside}
    block_bytes = tuple(_group_bytes(model, group, digits) for group in groups)
    total = sum(block_bytes) + _group_bytes(model, rest, digits)
    dtypes = Counter(str(p.dtype).removeprefix("torch.") for p in parameters if p.is_floating_point())
    if not dtypes:
        raise UnsupportedModelError(
            f"{type(model).__name__}: no floating-point parameter to measure; load it in a dtype such as bfloat16"
        )
    dtype = dtypes.most_common(1)[0][0]
    return ModelSizes(
        block_params=tuple(
            sum(tensor.numel() for key, tensor in group.items() if key not in buffers) for group in groups
        ),
        total_params=sum(parameter.numel() for parameter in parameters),
        bytes_per_param=getattr(torch, dtype).itemsize,
        dtype=dtype,
        block_bytes=block_bytes,
        total_bytes=total + _FILE * (1 + total // _SHARD),
    )


def tensor_bytes(decoder: Decoder, *groups: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Bytes that tensors have in the model's weight files, header entries included, as ``measure_sizes`` counts them.

    Args:
        decoder: The dense model, whose size decides how wide offsets are.
        groups: Tensors by the names that the model gives them; shapes and dtypes are read, data is not.

    Returns:
        Those of each group.
    """
    digits = _digits(_saved_tensors(decoder.model))
    return tuple(_group_bytes(decoder.model, dict(tensors), digits) for tensors in groups)


def _digits(tensors: Mapping[str, Tensor]) -> int:
    return len(str(8 * sum(tensor.numel() for tensor in tensors.values())))


def _saved_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """What a checkpoint holds, by name, without data; each shared tensor once, under its first name."""
    first: dict[int, str] = {}
    with kept_tensors():
        state = model.state_dict(keep_vars=True)
    again = {name for name, tensor in state.items() if first.setdefault(id(tensor), name) != name}
    return {name: tensor for name, tensor in fused_shapes(model).items() if name not in again}


def _group_bytes(model: PreTrainedModel, tensors: dict[str, Tensor], digits: int) -> int:
    """Data and header entries of tensors in the names and shapes that Transformers writes to disk."""
    offset = 10**digits - 1
    total = 0
    for name, tensor in revert_weight_conversion(model, tensors).items():
        # Every two-byte dtype is written with four letters; CostTable.in_dtype relies on one width for all.
        entry = {name: {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [offset, offset]}}
        # The braces around the entry stand for the comma after it.
        total += len(json.dumps(entry, separators=(",", ":")).encode()) - 1
        total += tensor.numel() * tensor.element_size()
    return total
