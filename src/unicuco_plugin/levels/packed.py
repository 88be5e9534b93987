"""A linear in every scheme, on disk and in memory: the very tensors that compressed-tensors writes.

A file holds, for each scheme that the linear is offered, what a checkpoint in that scheme keeps of its weight, under
``SCHEME.tensor``, such as ``W4A16:g64.weight_packed``: exporting is copying.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.nvfp4.helpers import pack_fp4_to_uint8
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from torch import Tensor

from unicuco_plugin.levels.linear import read_tensors, store_tensors
from unicuco_plugin.levels.record import LinearEntry
from unicuco_plugin.levels.scheme_sweep import Quantised
from unicuco_plugin.levels.settings import resolve_schemes
from unicuco_plugin.levels.toolkit_scheme import as_toolkit
from unicuco_plugin.models.tensors.sending import sent
from unicuco_plugin.schemes import DENSE_BITS, Scheme

__all__ = ["pack", "predict_packed_bytes", "read_packed", "unpack", "write_packed"]

# Names of safetensors for what files of schemes hold, in the order in which it lays tensors out, the last first.
_ORDER = ("U8", "I8", "F8_E4M3", "F16", "BF16", "I32", "F32", "F64", "I64")
_FLOATS = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_ALIGNMENT = 8


def pack(quantised: Quantised) -> dict[str, Tensor]:
    """Make the tensors that stand for a weight in a file, by their names without the linear's."""
    scheme, codes, grid = quantised.scheme, quantised.codes, quantised.grid
    if scheme.inputs < DENSE_BITS:
        return {"weight": codes, "weight_scale": grid.scale}
    if grid.global_scale is not None:
        scales = {"weight_scale": grid.scale.to(torch.float8_e4m3fn), "weight_global_scale": grid.global_scale}
        return {"weight_packed": pack_fp4_to_uint8(codes)} | scales
    packed = {
        "weight_packed": pack_to_int32(codes, scheme.bits),
        "weight_scale": grid.scale,
        "weight_shape": torch.tensor(codes.shape),
    }
    if not scheme.symmetric:
        packed["weight_zero_point"] = pack_to_int32(grid.zero_point, scheme.bits, packed_dim=0)
    return packed


def unpack(
    scheme: Scheme, tensors: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Tensor:
    """Decode a weight with compressed-tensors' own code, as a client that loads the checkpoint does.

    Args:
        scheme: How it is stored.
        tensors: As :func:`pack` makes them.
        dtype: The model's.
        device: Where to decode it.

    Returns:
        The ``R x C`` weight.
    """
    # A shape is read on the host.
    there = {name: tensor if name == "weight_shape" else sent(tensor, device) for name, tensor in tensors.items()}
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    weight: Tensor = compressor.decompress(there, as_toolkit(scheme))["weight"]
    return weight.to(dtype)


def write_packed(folder: Path, name: str, solved: Sequence[Quantised], *, invertible: bool = True) -> LinearEntry:
    """Write one linear's file, durably; it is there whole or not at all.

    Args:
        folder: The database.
        name: Full module name.
        solved: The linear in every scheme that it is offered.
        invertible: For the entry.
    """
    rows, columns = solved[0].codes.shape
    tensors = {
        f"{quantised.scheme.name}.{key}": tensor.cpu().contiguous()
        for quantised in solved
        for key, tensor in pack(quantised).items()
    }
    losses = {quantised.scheme.name: quantised.loss.item() for quantised in solved}
    return store_tensors(folder, name, tensors, shape=(rows, columns), losses=losses, invertible=invertible)


def read_packed(path: Path, shape: tuple[int, int], scheme: Scheme, dtype: torch.dtype) -> dict[str, Tensor]:
    """Read the tensors of one scheme, by their names without the linear's.

    Args:
        path: The linear's file.
        shape: Of its weight.
        scheme: One that it is stored in.
        dtype: The model's.

    Raises:
        LevelsError: If the file is missing or damaged.
    """
    shapes = {key: found for key, (found, _) in scheme.tensors(*shape, dtype.itemsize).items()}
    tensors = read_tensors(path, {f"{scheme.name}.{key}": found for key, found in shapes.items()})
    return dict(zip(shapes, tensors, strict=True))


def predict_packed_bytes(shapes: Mapping[str, tuple[int, int]], schemes: tuple[str, ...], dtype: str) -> int:
    """Bytes of the files of these linears, headers included, exactly.

    Args:
        shapes: Rows and columns by the linears' full names.
        schemes: As they were asked for.
        dtype: Of the model.

    Raises:
        StrategyError: If a scheme's own group does not divide a linear's inputs.
    """
    return sum(_file_bytes(name, shape, resolve_schemes(schemes, shape[1]), dtype) for name, shape in shapes.items())


def _file_bytes(name: str, shape: tuple[int, int], schemes: Sequence[Scheme], dtype: str) -> int:
    width = getattr(torch, dtype).itemsize
    entries = [
        (f"{scheme.name}.{key}", _kind(scheme, key, dtype), found, math.prod(found) * size)
        for scheme in schemes
        for key, (found, size) in scheme.tensors(*shape, width).items()
    ]
    header: dict[str, object] = {"__metadata__": {"linear": name}}
    at = 0
    for key, kind, found, size in sorted(entries, key=lambda entry: (-_ORDER.index(entry[1]), entry[0])):
        header[key] = {"dtype": kind, "shape": found, "data_offsets": (at, at + size)}
        at += size
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // _ALIGNMENT) * _ALIGNMENT + at


def _kind(scheme: Scheme, key: str, dtype: str) -> str:
    four = scheme.format == "nvfp4-pack-quantized"
    return {
        "weight": "I8" if scheme.kind == "int" else "F8_E4M3",
        "weight_packed": "U8" if four else "I32",
        "weight_scale": "F8_E4M3" if four else _FLOATS[dtype],
        "weight_zero_point": "I32",
        "weight_shape": "I64",
        "weight_global_scale": "F32",
    }[key]
