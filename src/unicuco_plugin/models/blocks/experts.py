"""Mixtures of experts: all experts of a block in one tensor, as families keep them, or each as linears of its own.

llm-compressor prunes and quantises linears, so it takes the tensors of a family apart (``LinearExperts2D``) and saves
names that most families do not load. Here they are put together again, bit for bit, in the layout that Transformers'
own class declares: ``E x out x in`` or transposed, gate and up one behind the other or row by row.
"""

from collections.abc import Container, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, revert_weight_conversion

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.mixtures import (
    EXPERT_LINEARS,
    SOURCE_CLASS,
    find_split,
    is_quantised,
    list_experts,
)
from unicuco_plugin.models.tensors.storage import kept_tensors, read_kept, read_parameters, settle

__all__ = [
    "disk_names",
    "fuse_experts",
    "fused_parameters",
    "fused_shapes",
    "fused_tensors",
]

# Where llm-compressor notes from which configuration the class that it has taken apart is built.
_CONFIG = "_source_config"


def fuse_experts(model: PreTrainedModel) -> tuple[str, ...]:
    """Put experts that were taken apart into their family's own modules again, block by block.

    Those of which a linear is quantised stay apart, and are saved under the names that the family's files have.

    Args:
        model: Changed in place.

    Returns:
        The full names of the modules that were put together.

    Raises:
        UnsupportedModelError: If a module cannot be built again.
    """
    names = [name for name, module in find_split(model).items() if not is_quantised(module)]
    for name in names:
        split = model.get_submodule(name)
        fused = _build(name, split)
        with kept_tensors():
            grad = any(parameter.requires_grad for parameter in split.parameters())
        for field, tensor in fused_tensors(name, split).items():
            setattr(fused, field, nn.Parameter(tensor, requires_grad=grad))
        fused.train(split.training)
        model.set_submodule(name, settle(fused, next(module for module in split.modules() if module._parameters)))
    for name in find_split(model):
        _name_as_on_disk(model, name)
    return tuple(names)


def fused_tensors(name: str, split: nn.Module, device: str | None = None) -> dict[str, Tensor]:
    """The tensors of a family's own module, from the linears of its experts.

    Args:
        name: What to call the module in a message.
        split: Experts taken apart, none compressed.
        device: Where the tensors will be, that of the linears by default; ``meta`` for shapes alone.

    Returns:
        ``gate_up_proj`` or ``up_proj``, and ``down_proj``, each ``E x out x in`` or transposed; biases ``E x out``.

    Raises:
        UnsupportedModelError: If the family's class cannot be built.
    """
    fused = _build(name, split)
    found = {}
    for field, _ in fused.named_parameters():
        projection, what = (field.removesuffix("_bias"), "bias") if field.endswith("_bias") else (field, "weight")
        if projection not in EXPERT_LINEARS:
            raise UnsupportedModelError(
                f"{name}: holds {field}, which linears of experts do not carry; take the space depth"
            )
        transpose = what == "weight" and _transposed(fused, split)
        parts = [_part(fused, expert, projection, what, device) for expert in list_experts(split)]
        found[field] = torch.stack([part.T if transpose else part for part in parts])
    return found


def disk_names(model: PreTrainedModel, name: str) -> dict[str, str]:
    """How the linears of one expert are called in files, as ``{"gate_proj": "w1"}``; empty where files hold no linears.

    Told by numbers: a tensor with a number for each linear goes through Transformers' own conversion.

    Args:
        model: Whose rules hold.
        name: Of the experts' module, taken apart or not.
    """
    module = model.get_submodule(name)
    fused = _build(name, module) if SOURCE_CLASS in vars(module) else module
    numbers: dict[float, str] = {}
    given = {}
    for field, linears in EXPERT_LINEARS.items():
        if field in dict(fused.named_parameters(recurse=False)):
            first = len(numbers)
            numbers |= {float(first + place): linear for place, linear in enumerate(linears)}
            given[f"{name}.{field}"] = torch.arange(float(first), float(len(numbers)))[None, :, None]
    found = {}
    for key, tensor in revert_weight_conversion(model, given).items():
        parts = key.split(".")
        if len(parts) > 2 and parts[-3] == "0" and tensor.numel() == 1:
            found[numbers[tensor.item()]] = parts[-2]
    return found


def fused_parameters(model: PreTrainedModel, but: Container[str] = ()) -> Iterator[tuple[str, Tensor]]:
    """Parameters by name as the family has them; experts that were taken apart are put together module by module.

    Args:
        model: Whose.
        but: Names that are left out and not read.
    """
    split = find_split(model)
    yield from read_parameters(model, lambda name: name not in but and not _owner(name, split))
    for name, module in split.items():
        yield from ((f"{name}.{field}", tensor) for field, tensor in fused_tensors(name, module).items())


def fused_shapes(model: PreTrainedModel) -> dict[str, Tensor]:
    """The state by name as the family has it, on the meta device; scales and the like of linears keep their names."""
    split = find_split(model)
    found = {}
    with kept_tensors():
        state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        if not (_owner(name, split) and name.endswith((".weight", ".bias"))):
            found[name] = torch.empty_like(tensor, device="meta")
    for name, module in split.items():
        found |= {f"{name}.{field}": tensor for field, tensor in fused_tensors(name, module, "meta").items()}
    return found


def _name_as_on_disk(model: PreTrainedModel, name: str) -> None:
    """Let ``save_pretrained`` write the linears of experts under the names that the family's files have."""
    own = getattr(model, "_weight_conversions", None)
    given = own if own is not None else get_model_conversion_mapping(model, add_legacy=False)
    ours = [
        WeightRenaming(rf"\.experts\.(\d+)\.{there}\.", rf".experts.\1.{here}.")
        for here, there in disk_names(model, name).items()
        if here != there
    ]
    known = {str(entry) for entry in given}
    model._weight_conversions = [*given, *(entry for entry in ours if str(entry) not in known)]


def _owner(name: str, split: Mapping[str, nn.Module]) -> bool:
    return any(name.startswith(f"{module}.") for module in split)


def _build(name: str, split: nn.Module) -> nn.Module:
    """The family's own module, without weights."""
    try:
        with torch.device("meta"):
            fused: nn.Module = getattr(split, SOURCE_CLASS)(getattr(split, _CONFIG))
    except Exception as error:  # whatever a family raises
        raise UnsupportedModelError(
            f"{name}: its experts cannot be put together again: {error}; take the space depth"
        ) from error
    return fused


def _transposed(fused: nn.Module, split: nn.Module) -> bool:
    return bool(getattr(fused, "is_transposed", getattr(split, "is_transposed", False)))


def _part(fused: nn.Module, expert: nn.Module, projection: str, what: str, device: str | None) -> Tensor:
    """One expert's share of a tensor, ``out x in`` or, for a bias, ``out``."""

    def read(linear: str) -> Tensor:
        module = expert.get_submodule(linear)
        if device is None:
            return read_kept(module, what)
        with kept_tensors():
            return cast(Tensor, getattr(module, what)).detach().to(device)

    if projection != "gate_up_proj":
        return read(projection)
    gate, up = read("gate_proj"), read("up_proj")
    if getattr(fused, "is_concatenated", True):
        return torch.cat([gate, up])
    return torch.stack([gate, up], dim=1).flatten(0, 1)  # row by row
