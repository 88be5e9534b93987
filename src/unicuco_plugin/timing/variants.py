"""What an engine is given, so that the times of whole models tell those of their modules: configurations alone.

An engine that fuses, compiles or captures what it runs can only be timed as a whole. So every second module of a kind
is taken out, or is narrower, and what the whole is faster by is shared among those.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

from unicuco_plugin.costs.timings import DENSE, Shape, Stored
from unicuco_plugin.errors import DeviceTableError, UnsupportedModelError
from unicuco_plugin.files.json_text import json_text
from unicuco_plugin.levels.toolkit_scheme import as_toolkit
from unicuco_plugin.models.blocks.config import shrink_config
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.fused_units import FusedUnit, fused_units
from unicuco_plugin.models.parts.configuration_deci import DeciLMConfig
from unicuco_plugin.models.parts.deci import check_deci_family, deci_config
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.modeling_deci import DeciLMForCausalLM
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.models.parts.shrink import NAMES
from unicuco_plugin.models.tensors.storage import kept_tensors
from unicuco_plugin.schemes import parse_scheme
from unicuco_plugin.spaces.structured import ROUND_TO
from unicuco_plugin.spaces.units import name_block

__all__ = ["Variant", "Variants", "find_variants"]
# Widths of MLPs that are timed between none and all: times are nearly linear in them.
_QUARTERS = 4


@dataclass(frozen=True, eq=False)
class Variant:
    """One model to time.

    Attributes:
        name: Unlike any other's.
        config: Transformers', and all that an engine needs which makes weights up.
        count: Modules, or units, that are otherwise than in the dense model; 0 there.
        shape, width: Of such modules, the first by its place, and how many of their parts are left.
        stored: Or the place of what is told of such units.
        quantized: What the configuration says of how weights are stored.
    """

    name: str
    config: Any
    count: int = 0
    shape: int = 0
    width: int = 0
    stored: int | None = None
    quantized: Mapping[str, Any] | None = None

    @property
    def own_code(self) -> bool:
        """Whether it brings the code that reads its configuration."""
        return isinstance(self.config, DeciLMConfig)

    def write(self, folder: Path, architecture: str) -> None:
        """Write what an engine loads.

        Args:
            folder: An empty one.
            architecture: Name of the dense model's class.
        """
        self.config.save_pretrained(folder)
        file = folder / "config.json"
        given = json.loads(file.read_text(encoding="utf8")) | {"architectures": [architecture]}
        if self.own_code:
            DeciLMForCausalLM.write_code(folder)
            given["architectures"] = [DeciLMForCausalLM.__name__]
        else:
            given.pop("auto_map", None)  # no code comes along: vLLM has its own of the family
        if self.quantized is not None:
            given["quantization_config"] = self.quantized
        file.write_text(json_text(given), encoding="utf8")


@dataclass(frozen=True)
class Variants:
    """All models that are timed for one.

    Attributes:
        modules: Full name of each half, or block → index of its shape.
        shapes: What their times depend on.
        stored: What is told of units that are stored in schemes.
        every: The dense model, then one for each shape and width, and for each of ``stored``.
        architecture: Name of the dense model's class.
        dtype: Of its weights.
    """

    modules: Mapping[str, int]
    shapes: tuple[Shape, ...]
    stored: tuple[Stored, ...]
    every: tuple[Variant, ...]
    architecture: str
    dtype: str


_Found: TypeAlias = tuple[Mapping[str, int], tuple[Shape, ...], list[Variant]]


def find_variants(decoder: Decoder, schemes: Sequence[str] = ()) -> Variants:
    """What tells the times of a model's halves of blocks; of its blocks where engines load them whole only.

    Args:
        decoder: The dense model; it may be one without weights.
        schemes: Names of those whose times are told, too.

    Raises:
        DeviceTableError: If it has one block, or is of a class that its own repository brings.
        StrategyError: If a scheme is not known, or does not fit the model's linears.
        UnsupportedModelError: If it is not seen what a server packs.
    """
    if len(decoder.blocks) < 2:
        raise DeviceTableError(f"{type(decoder.model).__name__} must have two blocks or more to be timed, got one")
    if type(decoder.model).__module__.startswith("transformers_modules"):
        raise DeviceTableError(
            f"{type(decoder.model).__name__} is code of the model's own repository; vLLM is timed for families that "
            "Transformers has"
        )
    try:
        check_deci_family(decoder)
    except UnsupportedModelError:
        modules, shapes, every = _by_blocks(decoder)
    else:
        modules, shapes, every = _by_halves(decoder)
    told = list(_by_schemes(decoder, schemes))
    return Variants(
        modules,
        shapes,
        tuple(kind for kind, _ in told),
        (Variant(DENSE, decoder.model.config), *every, *(variant for _, variant in told)),
        type(decoder.model).__name__,
        str(decoder.model.dtype).removeprefix("torch."),
    )


def _by_halves(decoder: Decoder) -> _Found:
    parts, kinds = find_parts(decoder), tuple(NAMES)
    modules = {f"{block}.{NAMES[kind]}": place for block in decoder.block_names for place, kind in enumerate(kinds)}
    shapes = tuple(
        Shape(kind=kind, widths=_widths(kind, parts[f"{decoder.block_names[0]}.{NAMES[kind]}"].count)) for kind in kinds
    )
    others, every = decoder.block_names[1::2], []  # the first block's attention must stay
    for place, (kind, shape) in enumerate(zip(kinds, shapes, strict=True)):
        for width in shape.widths[:-1]:
            kept = KeptParts({f"{block}.{NAMES[kind]}": tuple(range(width)) for block in others})
            every.append(Variant(f"{kind} of {width}", deci_config(decoder, kept), len(others), place, width))
    return modules, shapes, every


def _widths(kind: str, count: int) -> tuple[int, ...]:
    """Parts that are left; attentions go whole or stay."""
    if kind == "attention":
        return (0, count)
    step = min(ROUND_TO, count)
    even = (round(count * quarter / _QUARTERS / step) * step for quarter in range(1, _QUARTERS))
    return tuple(sorted({0, *(width for width in even if 0 < width < count), count}))


def _by_blocks(decoder: Decoder) -> _Found:
    layers = getattr(decoder.config, "layer_types", None) or [None] * len(decoder.blocks)
    groups: dict[object, list[int]] = {}
    with kept_tensors():
        for index, (block, layer) in enumerate(zip(decoder.blocks, layers, strict=True)):
            tensors = tuple((name, tuple(tensor.shape)) for name, tensor in block.named_parameters())
            groups.setdefault((type(block), layer, tensors), []).append(index)
    modules = {decoder.block_names[i]: place for place, group in enumerate(groups.values()) for i in group}
    every = []
    for place, group in enumerate(groups.values()):
        gone = group[1::2] or group
        stay = [index for index in range(len(decoder.blocks)) if index not in gone]
        name = f"without {len(gone)} blocks like {decoder.block_names[gone[0]]}"
        every.append(Variant(name, shrink_config(decoder.model.config, stay), len(gone), place))
    return modules, tuple(Shape(kind="block", widths=(1,)) for _ in groups), every


def _by_schemes(decoder: Decoder, schemes: Sequence[str]) -> Iterator[tuple[Stored, Variant]]:
    """Every second unit of a kind in a scheme: the same linears of blocks, of the same sizes."""
    units, kinds = fused_units(decoder.model) if schemes else (), dict[object, list[FusedUnit]]()
    linears = dict(decoder.model.named_modules())
    names = [name for unit in units for name in unit.linears]
    for unit in units:
        block = name_block(unit.name)
        # Experts are in one tensor each, and linears outside of blocks stay as they are.
        if block in decoder.block_names and all(name in linears for name in unit.linears):
            sizes = tuple((linears[name].in_features, linears[name].out_features) for name in unit.linears)
            kinds.setdefault((unit.name.removeprefix(block), sizes), []).append(unit)
    pairs = {
        (scheme, own[0].name): own
        for own, name in product(kinds.values(), schemes)
        for scheme in [parse_scheme(name).for_inputs(linears[own[0].linears[0]].in_features)]
    }
    for place, ((scheme, first), own) in enumerate(pairs.items()):
        changed = own[1::2] or own
        targets = [linear for unit in changed for linear in unit.linears]
        group = as_toolkit(scheme).model_copy(update={"targets": targets, "format": scheme.format})
        quantized = {
            "quant_method": "compressed-tensors",
            "format": scheme.format,
            "quantization_status": "compressed",
            "config_groups": {"group_0": group.model_dump(mode="json")},
            "ignore": [linear for linear in names if linear not in targets],
        }
        variant = Variant(
            f"units like {first} in {scheme.name}",
            decoder.model.config,
            len(changed),
            stored=place,
            quantized=quantized,
        )
        yield Stored(units=tuple(unit.name for unit in own), scheme=scheme.name), variant
