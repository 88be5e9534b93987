"""A linear in every scheme, on disk and in memory: the very tensors that compressed-tensors writes.

A file holds, for each scheme that the linear is offered, what a checkpoint in that scheme keeps of its weight, under
``SCHEME.tensor``, such as ``W4A16:g64.weight_packed``: exporting is copying.
"""

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.nvfp4.helpers import pack_fp4_to_uint8
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, preset_name_to_scheme
from torch import Tensor

from unicuco_plugin.levels.settings import resolve_schemes
from unicuco_plugin.schemes import DENSE_BITS, Scheme

__all__ = ["as_toolkit", "pack", "predict_packed_bytes", "stored_shapes", "unpack"]

# Names of safetensors for what files of schemes hold, in the order in which it lays tensors out, the last first.
_ORDER = ("U8", "I8", "F8_E4M3", "F16", "BF16", "I32", "F32", "F64", "I64")
_FLOATS = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_ALIGNMENT = 8


@cache
def as_toolkit(scheme: Scheme) -> QuantizationScheme:
    """The scheme as compressed-tensors has it, for all linears; do not write to it."""
    if scheme.format == "pack-quantized":
        weights = QuantizationArgs(
            num_bits=scheme.bits,
            symmetric=scheme.symmetric,
            strategy="group" if scheme.group else "channel",
            group_size=scheme.group,
        )
        return QuantizationScheme(targets=["Linear"], weights=weights)
    return preset_name_to_scheme(scheme.name, ["Linear"])


def pack(
    scheme: Scheme, codes: Tensor, scale: Tensor, zero_point: Tensor, global_scale: Tensor | None
) -> dict[str, Tensor]:
    """Make the tensors of a file.

    Args:
        scheme: How.
        codes: ``R x C``, int8 or float8; float32 numbers of four bits.
        scale: ``R x G``, G groups of a row.
        zero_point: ``R x G`` int8; only looked at where the scheme is not symmetric.
        global_scale: Where the scheme's scales have one.
    """
    if scheme.inputs < DENSE_BITS:
        return {"weight": codes, "weight_scale": scale}
    if global_scale is not None:
        scales = {"weight_scale": scale.to(torch.float8_e4m3fn), "weight_global_scale": global_scale.view(1)}
        return {"weight_packed": pack_fp4_to_uint8(codes)} | scales
    packed = {
        "weight_packed": pack_to_int32(codes, scheme.bits),
        "weight_scale": scale,
        "weight_shape": torch.tensor(codes.shape),
    }
    if not scheme.symmetric:
        packed["weight_zero_point"] = pack_to_int32(zero_point, scheme.bits, packed_dim=0).contiguous()
    return packed


def unpack(scheme: Scheme, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Decode a weight with compressed-tensors' own code, as a client that loads the checkpoint does.

    Args:
        scheme: How it is stored.
        tensors: As :func:`pack` makes them, on one device; ``weight_shape`` on any.
        dtype: The model's.

    Returns:
        The ``R x C`` weight.
    """
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    weight: Tensor = compressor.decompress(dict(tensors), as_toolkit(scheme))["weight"]
    return weight.to(dtype)


def stored_shapes(scheme: Scheme, shape: tuple[int, int], width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of what a file holds of one scheme, by the names in the file."""
    return {f"{scheme.name}.{key}": found for key, (found, _) in scheme.tensors(*shape, width).items()}


def predict_packed_bytes(shapes: Mapping[str, tuple[int, int]], schemes: Sequence[str], dtype: str) -> int:
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
