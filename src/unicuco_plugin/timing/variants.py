"""What an engine is given, so that the times of whole models tell those of their modules: configurations alone.

An engine that fuses, compiles or captures what it runs can only be timed as a whole. So every second module of a kind
is taken out, or is narrower, and what the whole is faster by is shared among those.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unicuco_plugin.costs.timings import Shape
from unicuco_plugin.errors import DeviceTableError, UnsupportedModelError
from unicuco_plugin.models.blocks.config import shrink_config
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.parts.deci import check_deci_family, deci_config
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.modeling_deci import DeciLMForCausalLM
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.models.parts.shrink import NAMES
from unicuco_plugin.models.tensors.storage import kept_tensors
from unicuco_plugin.spaces.structured import ROUND_TO

__all__ = ["DENSE", "Variant", "Variants", "find_variants"]

DENSE = "dense"
# Widths of MLPs that are timed between none and all: times are nearly linear in them.
_QUARTERS = 4


@dataclass(frozen=True)
class Variant:
    """One model to time.

    Attributes:
        name: Unlike any other's.
        config: Transformers', and all that an engine needs which makes weights up.
        shape, width: What is otherwise than in the dense model, by its place, and how many of its parts are left.
        count: Modules that are so; 0 in the dense model.
    """

    name: str
    config: Any
    shape: int = 0
    width: int = 0
    count: int = 0

    @property
    def own_code(self) -> bool:
        """Whether it brings the code that reads its configuration."""
        return bool(getattr(self.config, "auto_map", None))

    def write(self, folder: Path, architecture: str) -> None:
        """Write what an engine loads.

        Args:
            folder: An empty one.
            architecture: Name of the dense model's class.
        """
        if self.own_code:
            DeciLMForCausalLM.write_code(folder)
            architecture = DeciLMForCausalLM.__name__
        self.config.architectures = [architecture]
        self.config.save_pretrained(folder)


@dataclass(frozen=True)
class Variants:
    """All models that are timed for one.

    Attributes:
        modules: Full name of each half, or block → index of its shape.
        shapes: What their times depend on.
        every: The dense model, then one for each shape and width.
        architecture: Name of the dense model's class.
        dtype: Of its weights.
    """

    modules: Mapping[str, int]
    shapes: tuple[Shape, ...]
    every: tuple[Variant, ...]
    architecture: str
    dtype: str


def find_variants(decoder: Decoder) -> Variants:
    """What tells the times of a model's halves of blocks; of its blocks where engines load them whole only.

    Args:
        decoder: The dense model; it may be one without weights.

    Raises:
        DeviceTableError: If it has one block.
    """
    if len(decoder.blocks) < 2:
        raise DeviceTableError(f"{type(decoder.model).__name__} must have two blocks or more to be timed, got one")
    try:
        check_deci_family(decoder)
    except UnsupportedModelError:
        return _by_blocks(decoder)
    return _by_halves(decoder)


def _by_halves(decoder: Decoder) -> Variants:
    parts, kinds = find_parts(decoder), tuple(NAMES)
    modules = {f"{block}.{NAMES[kind]}": place for block in decoder.block_names for place, kind in enumerate(kinds)}
    shapes = tuple(
        Shape(kind=kind, widths=_widths(kind, parts[f"{decoder.block_names[0]}.{NAMES[kind]}"].count)) for kind in kinds
    )
    others = decoder.block_names[1::2]  # the first block's attention must stay

    def narrower() -> Iterator[Variant]:
        yield Variant(DENSE, decoder.model.config)
        for place, (kind, shape) in enumerate(zip(kinds, shapes, strict=True)):
            for width in shape.widths[:-1]:
                kept = KeptParts({f"{block}.{NAMES[kind]}": tuple(range(width)) for block in others})
                name = f"{kind} of {width}"
                yield Variant(name, deci_config(decoder, kept), place, width, len(others))

    return _variants(decoder, modules, shapes, narrower())


def _widths(kind: str, count: int) -> tuple[int, ...]:
    """Parts that are left; attentions go whole or stay."""
    if kind == "attention":
        return (0, count)
    step = min(ROUND_TO, count)
    even = (round(count * quarter / _QUARTERS / step) * step for quarter in range(1, _QUARTERS))
    return tuple(sorted({0, *(width for width in even if 0 < width < count), count}))


def _by_blocks(decoder: Decoder) -> Variants:
    layers = getattr(decoder.config, "layer_types", None) or [None] * len(decoder.blocks)
    groups: dict[object, list[int]] = {}
    with kept_tensors():
        for index, (block, layer) in enumerate(zip(decoder.blocks, layers, strict=True)):
            tensors = tuple((name, tuple(tensor.shape)) for name, tensor in block.named_parameters())
            groups.setdefault((type(block), layer, tensors), []).append(index)
    modules = {decoder.block_names[i]: place for place, group in enumerate(groups.values()) for i in group}
    every = [Variant(DENSE, decoder.model.config)]
    for place, group in enumerate(groups.values()):
        gone = group[1::2] or group
        stay = [index for index in range(len(decoder.blocks)) if index not in gone]
        name = f"without {len(gone)} blocks like {decoder.block_names[gone[0]]}"
        every.append(Variant(name, shrink_config(decoder.model.config, stay), place, 0, len(gone)))
    return _variants(decoder, modules, [Shape(kind="block", widths=(1,)) for _ in groups], every)


def _variants(
    decoder: Decoder, modules: Mapping[str, int], shapes: Iterable[Shape], every: Iterable[Variant]
) -> Variants:
    model = decoder.model
    return Variants(modules, tuple(shapes), tuple(every), type(model).__name__, str(model.dtype).removeprefix("torch."))
