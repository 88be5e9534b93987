"""Schemes: ways to store the weight of a linear, by the names of compressed-tensors' presets and a spelling beside.

``W4A16:g64:asym`` is four bits for a weight, states left in 16, one scale and one zero point for 64 inputs of a row.
``W{2..8}A16`` alone is the preset: symmetric, groups of 128. ``channel`` is one scale for a row.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Literal

from unicuco_plugin.errors import StrategyError, quoted

__all__ = ["DENSE", "DENSE_BITS", "REMOVED", "Choice", "Scheme", "parse_scheme"]

DENSE_BITS = 16
"""Bits of a weight that is left alone, and of a scale: checkpoints are shipped in bfloat16 or float16."""

DENSE = "dense"
"""What is written in a scheme's place for a weight that is left alone."""

REMOVED = "removed"
"""What is written in a scheme's place for a weight that is gone: no bits, and no bytes."""

Choice = tuple[str, float, int]
"""One way to store a unit: a scheme's name, ``DENSE`` or ``REMOVED``, mean bits of a weight with its scales, bytes."""

# What vLLM's kernels of integers know (Marlin, Humming, the CPU's); the presets have the largest.
_GROUPS = (128, 64, 32)
_PRESET_GROUP = _GROUPS[0]
_SPELLING = re.compile(r"W([2-8])A16((?::(?:g32|g64|g128|channel|asym))*)")
_ASYMMETRIC = re.compile(r"(W[2-8]A16)_ASYM")
_NVFP4_GROUP = 16


@dataclass(frozen=True)
class Scheme:
    """One way to store a weight ``R x C``: R rows (output channels), C columns (inputs).

    Attributes:
        bits: Of one code.
        kind: What codes are.
        symmetric: Whether codes need no zero point.
        group: Inputs of a row that share a scale; None where each row has one.
        inputs: Bits of what enters the linear; fewer than 16 where it is rounded for each token.
        chosen: Whether the group was asked for, and is not only the preset's.
    """

    bits: int
    kind: Literal["int", "float"] = "int"
    symmetric: bool = True
    group: int | None = _PRESET_GROUP
    inputs: int = DENSE_BITS
    chosen: bool = True

    @cached_property
    def name(self) -> str:
        """How it is written: the preset's name where it is one."""
        return self._written(sized=self.group != _PRESET_GROUP)

    @cached_property
    def asked(self) -> str:
        """How it is asked for: the name, and the group where that was chosen."""
        return self._written(sized=self.chosen)

    def _written(self, *, sized: bool) -> str:
        for name, preset in _PRESETS.items():
            if replace(preset, chosen=self.chosen) == self:
                return name
        size = "channel" if self.group is None else f"g{self.group}"
        return ":".join([f"W{self.bits}A16", *([size] if sized else []), *([] if self.symmetric else ["asym"])])

    @property
    def format(self) -> str:
        """compressed-tensors' name of the form in which files keep it."""
        if self.inputs < DENSE_BITS:
            return "int-quantized" if self.kind == "int" else "float-quantized"
        return "pack-quantized" if self.kind == "int" else "nvfp4-pack-quantized"

    def for_inputs(self, columns: int) -> "Scheme":
        """The same scheme with a group that divides a linear's inputs: a preset takes the largest that does.

        Raises:
            StrategyError: If its own group, or every group, does not divide them.
        """
        if self.group is None or columns % self.group == 0:
            return self
        fitting = [group for group in _GROUPS if columns % group == 0]
        if self.chosen or not fitting:
            instead = f"; use {' or '.join(f'g{group}' for group in fitting)}" if fitting else "; use channel"
            raise StrategyError(
                f"scheme {self.name} has groups of {self.group}, which do not divide {columns} inputs{instead}"
            )
        return replace(self, group=fitting[0])

    def bits_per_weight(self, columns: int) -> float:
        """Bits of one weight with its share of scales and zero points, in a linear of so many inputs."""
        group = self.group or columns
        scale = 8 if self.group == _NVFP4_GROUP else DENSE_BITS
        return self.bits + (scale + (0 if self.symmetric else self.bits)) / group

    def tensors(self, rows: int, columns: int, width: int = 2) -> Mapping[str, tuple[tuple[int, ...], int]]:
        """Shape and bytes of an element of each tensor that stands for ``weight`` in a file.

        Args:
            rows: Of the weight.
            columns: Of the weight.
            width: Bytes of a scale: of an element of the model's dtype.
        """
        groups = columns // self.group if self.group else 1
        scale = {"weight_scale": ((rows, groups), width)}
        if self.format == "nvfp4-pack-quantized":
            codes = {"weight_packed": ((rows, columns // 2), 1), "weight_scale": ((rows, groups), 1)}
            return {**codes, "weight_global_scale": ((1,), 4)}
        if self.inputs < DENSE_BITS:
            return {"weight": ((rows, columns), 1), **scale}
        packed = {"weight_packed": ((rows, math.ceil(columns * self.bits / 32)), 4), **scale, "weight_shape": ((2,), 8)}
        zeros = {} if self.symmetric else {"weight_zero_point": ((math.ceil(rows * self.bits / 32), groups), 4)}
        return {**packed, **zeros}

    def stored_bytes(self, rows: int, columns: int, width: int = 2) -> int:
        """Bytes of these tensors."""
        return sum(math.prod(shape) * size for shape, size in self.tensors(rows, columns, width).values())


_PRESETS: Mapping[str, Scheme] = MappingProxyType(
    {
        "W8A8": Scheme(8, group=None, inputs=8),
        "FP8_DYNAMIC": Scheme(8, kind="float", group=None, inputs=8),
        "NVFP4A16": Scheme(4, kind="float", group=_NVFP4_GROUP),
    }
)
_ALIASES: Mapping[str, str] = MappingProxyType({"INT8": "W8A8"})


@lru_cache(maxsize=256)
def parse_scheme(text: str) -> Scheme:
    """Read a scheme's name, such as ``W4A16``, ``W3A16:g32:asym``, ``W8A16:channel``, ``W8A8`` or ``FP8_DYNAMIC``.

    Raises:
        StrategyError: If it is none.
    """
    name = _ASYMMETRIC.sub(r"\1:asym", _ALIASES.get(text, text))
    if name in _PRESETS:
        return _PRESETS[name]
    match = _SPELLING.fullmatch(name)
    options = match[2].split(":")[1:] if match else []
    sizes = [option for option in options if option != "asym"]
    if match is None or len(sizes) > 1 or options.count("asym") > 1:
        raise StrategyError(
            f"scheme must be W2A16 to W8A16 with :g32, :g64, :g128 or :channel and :asym, or one of "
            f"{', '.join(_PRESETS)}, got {quoted(text)}"
        )
    group = _PRESET_GROUP if not sizes else None if sizes[0] == "channel" else int(sizes[0][1:])
    return Scheme(int(match[1]), symmetric="asym" not in options, group=group, chosen=bool(sizes))
