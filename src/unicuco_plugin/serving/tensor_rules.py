"""What the headers of weight files show: every linear's tensors, in the layout that its group promises."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from compressed_tensors.quantization import QuantizationArgs
from torch import Tensor

from unicuco_plugin.serving.config_rules import is_odd
from unicuco_plugin.serving.finding import Finding, name_some
from unicuco_plugin.serving.layers import Linear
from unicuco_plugin.serving.layout import Layout
from unicuco_plugin.serving.quantization import Group

__all__ = ["tensor_findings"]

_WORD = 32
_PACKED, _NVFP4, _MXFP4 = "pack-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized"
_Shape: TypeAlias = tuple[int, ...]
_Shapes: TypeAlias = dict[str, list[_Shape]]


def tensor_findings(layout: Layout, tensors: Mapping[str, Tensor]) -> Iterator[Finding]:
    """Hold a checkpoint's tensors against its configuration.

    Args:
        layout: The model's units under the configuration.
        tensors: By name in the files, on the meta device.
    """
    missing: list[str] = []
    for unit in layout.units:
        for linear in unit.linears:
            group = layout.matcher.group(layout.written[linear.name])
            if group is None or group.weights is None:
                yield from _plain(linear, tensors)
                continue
            shapes = _EXPECTED.get(layout.quantization.format_of(group))
            if shapes is None:  # a layout that is not known here
                continue
            for suffix, allowed in shapes(linear, group).items():
                name = f"{linear.name}.{suffix}"
                if name not in tensors:
                    missing.append(name)
                elif tuple(tensors[name].shape) not in allowed:
                    yield _misshapen(linear, group, name, tuple(tensors[name].shape), allowed)
    if missing:
        yield Finding(
            "missing", missing[0],
            f"{name_some(missing)}: not in the weight files, and the configuration promises them: write the checkpoint "
            "again, or correct targets and ignore",
            outcome="broken",
        )  # fmt: skip


def _plain(linear: Linear, tensors: Mapping[str, Tensor]) -> Iterator[Finding]:
    """A linear of 16 bits has no scales."""
    found = [suffix for suffix in ("weight_packed", "weight_scale") if f"{linear.name}.{suffix}" in tensors]
    if found:
        yield Finding(
            "unexpected", f"{linear.name}.{found[0]}",
            "is in the weight files, and by the configuration its linear is not quantised: correct targets and ignore",
            outcome="broken",
        )  # fmt: skip


def _misshapen(linear: Linear, group: Group, name: str, have: _Shape, allowed: list[_Shape]) -> Finding:
    weights = group.weights
    bits = 0 if weights is None else weights.num_bits
    if (
        name.endswith("weight_packed")
        and is_odd(group)
        and have == (linear.rows, _divide(linear.columns, _WORD // bits))
    ):
        return Finding(
            "packing", name,
            f"is {bits} bits packed {_WORD // bits} to a word, as compressed-tensors did before 0.18; vLLM reads them "
            "packed densely: quantise again with a later one",
        )  # fmt: skip
    wanted = " or ".join(str(list(shape)) for shape in allowed)
    return Finding(
        "shape", name,
        f"has shape {list(have)}, and {linear.rows} x {linear.columns} by the configuration make {wanted}: write the "
        "checkpoint again",
        outcome="broken",
    )  # fmt: skip


def _divide(number: int, by: int) -> int:
    return math.ceil(number / by)


def _scales(linear: Linear, weights: QuantizationArgs) -> list[_Shape]:
    """Shapes that scales may have."""
    if weights.strategy == "tensor":
        return [(1,), ()]
    if weights.strategy == "block" and weights.block_structure:
        high, wide = weights.block_structure
        return [(_divide(linear.rows, high), _divide(linear.columns, wide))]
    size = weights.group_size if weights.strategy in ("group", "tensor_group") else None
    return [(linear.rows, _divide(linear.columns, size) if size and size > 0 else 1)]


def _packed(linear: Linear, group: Group) -> _Shapes:
    weights = _weights(group)
    scales = _scales(linear, weights)
    shapes: _Shapes = {
        "weight_packed": [(linear.rows, _divide(linear.columns * weights.num_bits, _WORD))],
        "weight_scale": scales,
        "weight_shape": [(2,)],
    }
    if not weights.symmetric:
        shapes["weight_zero_point"] = [(_divide(linear.rows * weights.num_bits, _WORD), *shape[1:]) for shape in scales]
    return shapes


def _whole(linear: Linear, group: Group) -> _Shapes:
    shapes: _Shapes = {"weight": [(linear.rows, linear.columns)], "weight_scale": _scales(linear, _weights(group))}
    inputs = group.input_activations
    if inputs is not None and not inputs.dynamic:
        shapes["input_scale"] = [(1,), ()]
    return shapes


def _pairs(linear: Linear, group: Group) -> _Shapes:
    """Two numbers of four bits in a byte."""
    weights = _weights(group)
    one: list[_Shape] = [(1,), ()]
    shapes: _Shapes = {"weight_packed": [(linear.rows, linear.columns // 2)], "weight_scale": _scales(linear, weights)}
    if weights.strategy == "tensor_group":
        shapes["weight_global_scale"] = one
        if group.input_activations is not None:
            shapes["input_global_scale"] = one
    return shapes


def _weights(group: Group) -> QuantizationArgs:
    assert group.weights is not None  # noqa: S101 - asked before
    return group.weights


_EXPECTED: Mapping[str, Callable[[Linear, Group], _Shapes]] = {
    _PACKED: _packed,
    "int-quantized": _whole,
    "float-quantized": _whole,
    "naive-quantized": _whole,
    _NVFP4: _pairs,
    _MXFP4: _pairs,
}
