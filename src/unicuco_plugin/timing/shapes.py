"""What is timed of a model: its distinct halves of blocks, and each of them in widths that pruning may leave."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unicuco_plugin.costs.timings import Shape
from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.families.family import HALVES
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.modeling_compact import RemovedAttention, RemovedMLP
from unicuco_plugin.models.parts.parts import Parts
from unicuco_plugin.models.parts.shrink import check_shrinkable, slice_modules
from unicuco_plugin.models.tensors.storage import compute_device, kept_tensors
from unicuco_plugin.spaces.structured import ROUND_TO

__all__ = ["Timed", "find_timed", "narrowed"]

# Widths of a module that are timed, the narrowest and none at all beside them; between them times are interpolated.
_GRID = 8


@dataclass(frozen=True)
class Timed:
    """What is timed of a model.

    Attributes:
        modules: Full name of each half, or of a block that has not two of its own → index of its shape.
        shapes: Distinct ones.
        parts: Of modules that can be narrower.
    """

    modules: Mapping[str, int]
    shapes: tuple[Shape, ...]
    parts: Mapping[str, Parts]

    def narrow(self, turn: int) -> dict[str, int]:
        """A width that is not its own for every module that can be narrower; another one every ``turn``."""
        found, seen = {}, [0] * len(self.shapes)
        for name, shape in self.modules.items():
            widths = self.shapes[shape].widths[:-1]
            if widths:
                found[name] = widths[(seen[shape] + turn) % len(widths)]
                seen[shape] += 1
        return found

    def turns(self, samples: int) -> int:
        """How many turns give every width so many samples."""
        counts = [sum(own == shape for own in self.modules.values()) for shape in range(len(self.shapes))]
        pairs = zip(self.shapes, counts, strict=True)
        return max(-(-samples * (len(shape.widths) - 1) // count) for shape, count in pairs)


def find_timed(decoder: Decoder) -> Timed:
    """Group a model's halves by everything that their times depend on."""
    try:
        parts = check_shrinkable(decoder)
    except UnsupportedModelError:
        parts = {}  # whole blocks and halves can go all the same
    kinds: dict[object, int] = {}
    modules: dict[str, int] = {}
    shapes: list[Shape] = []
    layers = getattr(decoder.config, "layer_types", None) or [None] * len(decoder.blocks)
    for index, (block, layer) in enumerate(zip(decoder.block_names, layers, strict=True)):
        halves = decoder.sublayers(index)
        found = {name: kind for kind, name in halves.items()} if len(halves) == len(HALVES) else {block: "block"}
        for name, kind in found.items():
            own = _look(decoder.model.get_submodule(name), parts.get(name))
            key = (kind, type(decoder.blocks[index]), layer, own)
            if key not in kinds:
                kinds[key] = len(shapes)
                shapes.append(Shape(kind=kind, widths=_widths(parts.get(name))))
            modules[name] = kinds[key]
    return Timed(modules, tuple(shapes), parts)


def _look(module: nn.Module, part: Parts | None) -> object:
    with kept_tensors():
        tensors = tuple((name, tuple(tensor.shape)) for name, tensor in module.named_parameters())
    return type(module), tensors, part and part.count


def _widths(part: Parts | None) -> tuple[int, ...]:
    if part is None:
        return (1,)
    step = 1 if part.kind == "attention" else min(ROUND_TO, part.count)
    even = (max(1, round(part.count * eighth / _GRID / step)) * step for eighth in range(1, _GRID))
    return tuple(sorted({0, step, *(width for width in even if width < part.count), part.count}))


@contextmanager
def narrowed(decoder: Decoder, timed: Timed, widths: Mapping[str, int]) -> Iterator[None]:
    """Let modules have fewer parts, or be absent, as in a compact checkpoint, until the end of the ``with``.

    Args:
        decoder: The dense model; as it was afterwards, however it ends.
        timed: What was found in it.
        widths: Name of a module → parts that it has, fewer than all.
    """
    if not widths:
        yield
        return
    hidden, where = decoder.config.hidden_size, compute_device(decoder.model)
    bias = torch.zeros(hidden, dtype=decoder.model.dtype, device=where)
    kept = {name: tuple(range(width)) for name, width in widths.items() if width}
    # Compact modules have a bias for what is gone.
    restore = slice_modules(decoder, KeptParts(kept, dict.fromkeys(kept, bias)))
    absent: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for name in widths.keys() - kept.keys():
            parent, _, child = name.rpartition(".")
            block = decoder.model.get_submodule(parent)
            old = block.get_submodule(child)
            absent.append((block, child, old))
            setattr(block, child, _stand_in(old, timed.parts[name], hidden).to(where, decoder.model.dtype))
        yield
    finally:
        for block, child, old in absent:
            setattr(block, child, old)
        restore()


def _stand_in(old: nn.Module, part: Parts, hidden: int) -> nn.Module:
    if part.kind == "mlp":
        return RemovedMLP(hidden, bias=True)
    index: Any = old.layer_idx
    return RemovedAttention(hidden, bias=True, layer_idx=index)
