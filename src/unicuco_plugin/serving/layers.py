"""A model's linears as its files name them, in the units that a server packs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unicuco_plugin.models.blocks.mixtures import EXPERT_OUTPUT, find_fused
from unicuco_plugin.models.checkpoints.loadability import disk_state
from unicuco_plugin.models.fused_units import FusedUnit, fused_units
from unicuco_plugin.serving.matching import packed_order

__all__ = ["Linear", "Unit", "model_units"]


@dataclass(frozen=True)
class Linear:
    """One matrix of a checkpoint.

    Attributes:
        name: As in the files, without ``.weight``.
        rows: Outputs.
        columns: Inputs.
    """

    name: str
    rows: int
    columns: int


@dataclass(frozen=True)
class Unit:
    """Linears that a server keeps as one.

    Attributes:
        name: As :class:`~unicuco_plugin.models.fused_units.FusedUnit` has it.
        linears: In the order in which they are packed.
        kind: ``linear``; ``head`` for what makes logits; ``experts`` for all experts of a block.
    """

    name: str
    linears: tuple[Linear, ...]
    kind: Literal["linear", "head", "experts"] = "linear"

    @property
    def names(self) -> tuple[str, ...]:
        """Full names of its linears."""
        return tuple(linear.name for linear in self.linears)


def model_units(sketch: Any) -> tuple[Unit, ...]:  # noqa: ANN401 - a Transformers model
    """The units of a model without weights.

    Args:
        sketch: See :mod:`unicuco_plugin.models.sketch`.

    Raises:
        UnsupportedModelError: If it is not seen which linears a server packs.
    """
    stacks = find_fused(sketch)
    head = sketch.get_output_embeddings()
    found = []
    for unit in fused_units(sketch):
        if unit.name in stacks:
            found.append(Unit(unit.name, tuple(_of_experts(sketch, unit, stacks[unit.name])), "experts"))
            continue
        modules = [sketch.get_submodule(name) for name in unit.linears]
        linears = [
            linear for name, module in zip(unit.linears, modules, strict=True)
            for linear in _on_disk(sketch, {f"{name}.weight": module.weight})
        ]  # fmt: skip
        kind: Literal["linear", "head", "experts"] = "head" if modules[0] is head else "linear"
        if unit.name.endswith("experts") and len(unit.linears) > 1:
            kind = "experts"
        else:
            places = {name: place for place, name in enumerate(packed_order([linear.name for linear in linears]))}
            linears.sort(key=lambda linear: places[linear.name])
        found.append(Unit(unit.name, tuple(linears), kind))
    return tuple(found)


def _of_experts(sketch: Any, unit: FusedUnit, stack: nn.Module) -> Iterator[Linear]:  # noqa: ANN401
    own = {f"{unit.name}.{field}": tensor for field, tensor in stack.named_parameters(recurse=False)}
    linears = [linear for linear in _on_disk(sketch, own) if ".experts." in f"{linear.name}."]
    if len(linears) >= len(unit.linears):
        yield from linears
        return
    # The family's files have tensors of three dimensions, and quantised ones the names that llm-compressor gives.
    first = dict(stack.named_parameters(recurse=False))[EXPERT_OUTPUT]
    hidden, inner = first.shape[1:] if not getattr(stack, "is_transposed", False) else first.shape[1:][::-1]
    for name in unit.linears:
        yield Linear(name, hidden, inner) if name.endswith(EXPERT_OUTPUT) else Linear(name, inner, hidden)


def _on_disk(sketch: Any, state: Mapping[str, Tensor]) -> list[Linear]:  # noqa: ANN401
    """Matrices under the names that ``save_pretrained`` gives them."""
    meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
    return [
        Linear(name.removesuffix(".weight"), *tensor.shape)
        for name, tensor in disk_state(sketch, meta).items()
        if tensor.dim() == 2 and not name.endswith("bias")
    ]
