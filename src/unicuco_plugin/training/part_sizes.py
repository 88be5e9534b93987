"""What head groups and neurons weigh in the compact checkpoint, to the parameter."""

import torch

from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.sizes import measure_sizes, tensor_bytes
from unicuco_plugin.models.parts.parts import Parts, find_parts, leaving_blocks
from unicuco_plugin.models.tensors.storage import count_parameters, kept_tensors
from unicuco_plugin.profile_record import SizeTable

__all__ = ["measure_parts"]


def measure_parts(decoder: Decoder, *, round_to: int, compensate: bool) -> SizeTable:
    """Count parameters and bytes of every part, and of what comes and goes beside them.

    Where a module loses some of its parts its output gets a bias, if ``compensate`` and it has none. A block that loses
    both modules leaves with its norms. Bytes are never below those on disk, and a few bytes a tensor above: shapes are
    written in fewer digits when they shrink.

    Args:
        decoder: The dense model.
        round_to: Neurons that go together, at least 1; head groups go one by one.
        compensate: Whether biases stand for what is removed.

    Raises:
        UnsupportedModelError: If the model's modules cannot be split into parts.
    """
    sizes, parts = measure_sizes(decoder), find_parts(decoder)
    counted = {name: _module(decoder, part, compensate=compensate) for name, part in parts.items()}
    width = sizes.bytes_per_param
    blocks: dict[str, tuple[int, int]] = {}
    for block, inside in leaving_blocks(decoder, parts).items():
        index = decoder.block_names.index(block)
        params = sum(parts[n].params * parts[n].count + counted[n][0][0] for n in inside)
        size = sum(parts[n].params * parts[n].count * width + counted[n][0][1] for n in inside)
        blocks[block] = (sizes.block_params[index] - params, sizes.block_bytes[index] - size)
    return SizeTable(
        unit_params=tuple(part.params * part.count for part in parts.values()),
        unit_bytes=tuple(part.params * part.count * width for part in parts.values()),
        total_params=sizes.total_params,
        total_bytes=sizes.total_bytes,
        dtype=sizes.dtype,
        blocks=blocks,
        parts=tuple((p.count, 1 if p.kind == "attention" else min(round_to, p.count)) for p in parts.values()),
        rests=tuple(counted[name][0] for name in parts),
        biases=tuple(counted[name][1] for name in parts),
    )


def _module(decoder: Decoder, part: Parts, *, compensate: bool) -> tuple[tuple[int, int], tuple[int, int]]:
    """What leaves beside its parts when it goes whole, and the bias that it gains when it goes in part."""
    module = decoder.model.get_submodule(part.name)
    with kept_tensors():
        tensors = {f"{part.name}.{name}": tensor for name, tensor in module.state_dict(keep_vars=True).items()}
    output = decoder.model.get_submodule(part.output)
    weight = output.get_parameter("weight")
    rest = count_parameters(module) - part.count * part.params
    rest_bytes = tensor_bytes(decoder, tensors) - part.count * part.params * weight.element_size()
    if not compensate or getattr(output, "bias", None) is not None:
        return (rest, rest_bytes), (0, 0)
    bias = torch.empty(weight.shape[0], dtype=weight.dtype, device="meta")
    return (rest, rest_bytes), (bias.numel(), tensor_bytes(decoder, {f"{part.output}.bias": bias}))
