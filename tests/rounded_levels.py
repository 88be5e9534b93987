"""A database of schemes made by rounding to nearest with compressed-tensors' own code: in no time, and real."""

from pathlib import Path

import torch
from compressed_tensors.quantization.lifecycle.forward import quantize
from compressed_tensors.quantization.utils import calculate_qparams

from unicuco_plugin.levels.linear import store_tensors
from unicuco_plugin.levels.packed import as_toolkit, pack, unpack
from unicuco_plugin.levels.record import Calibration, LevelsRecord, write_record
from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.levels.settings import LevelSettings, resolve_schemes
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.strategy import ModelReference

__all__ = ["WIDTHS", "rounded_levels"]

# Of a row, because tiny models have 48 neurons, which no group divides.
WIDTHS = ("W8A16:channel", "W4A16:channel", "W3A16:channel")


def rounded_levels(model, folder: Path, schemes=WIDTHS) -> SchemeLevels:
    """Round every linear of the blocks in every scheme; the loss is the sum of squares of what is rounded away."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = model.dtype
    linears = find_decoder(model).all_linears()
    entries = {}
    for name, linear in linears.items():
        weight, tensors, losses = linear.weight.detach(), {}, {}
        for scheme in resolve_schemes(schemes, weight.shape[1]):
            packed = _round(scheme, weight)
            tensors |= {f"{scheme.name}.{key}": tensor for key, tensor in packed.items()}
            losses[scheme.name] = float((unpack(scheme, packed, dtype) - weight).double().square().sum())
        shape = tuple(weight.shape)
        entries[name] = store_tensors(folder, name, tensors, shape=shape, invertible=True, losses=losses)
    record = LevelsRecord(
        model=ModelReference(name="tiny", fingerprint=str(fingerprint(model))),
        dtype=str(dtype).removeprefix("torch."),
        device="cpu",
        settings=LevelSettings(schemes=schemes),
        calibration=Calibration(sources=(), hash="0" * 16, windows=1, length=1),
        expected=tuple(linears),
        linears=entries,
    )
    write_record(folder, record)
    return SchemeLevels.open(folder)


def _round(scheme, weight):
    args = as_toolkit(scheme).weights
    groups = weight.shape[1] // scheme.group if scheme.group else 1
    grouped = weight.unflatten(1, (groups, -1))
    scale, zero = calculate_qparams(grouped.amin(-1), grouped.amax(-1), args)
    scale = scale.to(weight.dtype)
    codes = quantize(weight, scale, zero, args, dtype=torch.float8_e4m3fn if scheme.kind == "float" else torch.int8)
    packed = pack(scheme, codes, scale, zero.to(torch.int8), None)
    return {key: tensor.contiguous() for key, tensor in packed.items()}
