"""Whether a model in memory is the one that its configuration builds."""

import copy
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from unicuco_plugin.errors import UnsupportedModelError

__all__ = ["check_structure"]

_SCALARS = (bool, int, float, str, type(None))
# State of use, not of structure.
_STATE = frozenset({"training", "gradient_checkpointing"})
# How many differences a message names; the first ones say enough.
_NAMED = 3


def check_structure(model: PreTrainedModel) -> None:
    """Build the model's class on the meta device from its configuration and compare.

    Compared are the names and shapes of parameters and persistent buffers, and every public scalar or text attribute
    that the fresh modules have (``sliding_window``, ``layer_type``, ``layer_idx``, …). What the toolkit hangs onto
    quantised modules is not compared.

    Args:
        model: The model, on any device; it is not run or changed.

    Raises:
        UnsupportedModelError: If the configuration cannot be built, or builds another model; the message names the
            first differences.
    """
    label = type(model).__name__
    config = copy.deepcopy(model.config)
    try:
        with torch.device("meta"):
            fresh = type(model)._from_config(config)
    except Exception as error:
        raise UnsupportedModelError(f"{label}: its configuration no longer builds a model: {error}") from error
    differences = [*_tensor_differences(model, fresh), *_attribute_differences(model, fresh)]
    if differences:
        more = len(differences) - _NAMED
        listed = "; ".join(differences[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise UnsupportedModelError(f"{label}: its configuration builds another model: {listed}")


def _tensor_differences(model: nn.Module, fresh: nn.Module) -> Iterator[str]:
    have = {name: tuple(tensor.shape) for name, tensor in model.state_dict(keep_vars=True).items()}
    want = {name: tuple(tensor.shape) for name, tensor in fresh.state_dict(keep_vars=True).items()}
    for name, shape in want.items():
        if name not in have:
            yield f"{name} is missing"
        elif have[name] != shape:
            yield f"{name} has shape {have[name]}, expected {shape}"
    for name in have.keys() - want.keys():
        if not _is_quantised(model.get_submodule(name.rpartition(".")[0])):
            yield f"{name} is unexpected"


def _attribute_differences(model: nn.Module, fresh: nn.Module) -> Iterator[str]:
    modules = dict(model.named_modules())
    for name, module in fresh.named_modules():
        if name not in modules:
            yield f"module {name} is missing"
            continue
        have = vars(modules[name])
        for attribute, value in vars(module).items():
            if attribute.startswith("_") or attribute in _STATE or type(value) not in _SCALARS:
                continue
            if attribute not in have:
                yield f"{name}.{attribute} is missing"
            elif have[attribute] != value:
                yield f"{name}.{attribute} is {have[attribute]!r}, expected {value!r}"


def _is_quantised(module: nn.Module) -> bool:
    return hasattr(module, "quantization_scheme") or hasattr(module, "quantization_status")
