"""Whether a model in memory is the one that its configuration builds."""

import copy
import math
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from unicuco_plugin.errors import UnsupportedModelError, clip, listed, quoted
from unicuco_plugin.models.blocks.experts import fused_shapes
from unicuco_plugin.models.families.known import family_of

__all__ = ["check_structure"]

_SCALARS = (bool, int, float, str, type(None))
# State of use, not of structure; a family may have more.
_STATE = frozenset({"training", "gradient_checkpointing"})


def check_structure(model: PreTrainedModel) -> None:
    """Build the model's class on the meta device from its configuration and compare.

    Compared are the names and shapes of parameters and persistent buffers, and every public scalar or text attribute
    that the fresh modules have (``sliding_window``, ``layer_type``, ``layer_idx``, …). What the toolkit hangs onto
    quantised modules is not compared, nor the attributes of modules whose class it replaces (fused experts).

    Args:
        model: The model, on any device; it is not run or changed.

    Raises:
        UnsupportedModelError: If the configuration cannot be built, or builds another model; the message names the
            first differences.
    """
    label = type(model).__name__
    config = copy.deepcopy(model.config)
    try:
        # Some rules are held only when a configuration is read.
        type(config).from_dict(config.to_dict())
        with torch.device("meta"):
            fresh = type(model)._from_config(config)
    except Exception as error:
        reason = clip(" ".join(str(error).split()), 180, middle=True)
        raise UnsupportedModelError(f"{label}: its configuration no longer builds a model: {reason}") from error
    states = _STATE | family_of(config).states
    differences = [*_tensor_differences(model, fresh), *_attribute_differences(model, fresh, states)]
    if differences:
        told = listed(differences, between="; ", rest="; and {} more")
        raise UnsupportedModelError(f"{label}: its configuration builds another model: {told}")


def _tensor_differences(model: PreTrainedModel, fresh: PreTrainedModel) -> Iterator[str]:
    # By the model's own conversions: how it was loaded decides under which names it is saved.
    have, want = _checkpoint_shapes(model, model), _checkpoint_shapes(fresh, model)
    for name, shape in want.items():
        if name not in have:
            yield f"{name} is missing"
        elif have[name] != shape:
            yield f"{name} has shape {have[name]}, expected {shape}"
    yield from (f"{name} is unexpected" for name in sorted(have.keys() - want.keys()))


def _checkpoint_shapes(model: PreTrainedModel, rules: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Shapes by the names that a checkpoint has, whether experts are linears in memory or not."""
    quantised = tuple(f"{name}." for name, module in model.named_modules() if _is_quantised(module))
    tensors = {
        name: tensor
        for name, tensor in fused_shapes(model).items()
        if name.endswith((".weight", ".bias")) or not (quantised and name.startswith(quantised))
    }
    tensors = revert_weight_conversion(rules, tensors)
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _attribute_differences(
    module: nn.Module, fresh: nn.Module, states: frozenset[str], name: str = ""
) -> Iterator[str]:
    if type(module) is not type(fresh):
        # Replaced by the toolkit, or another kind of layer: then its tensors differ, and that is said.
        return
    have = vars(module)
    for attribute, value in vars(fresh).items():
        if attribute.startswith("_") or attribute in states or type(value) not in _SCALARS:
            continue
        place = f"{name}.{attribute}".lstrip(".")
        if attribute not in have:
            yield f"{place} is missing"
        elif have[attribute] != value and not _rounded(have[attribute], value):
            yield f"{place} is {quoted(have[attribute])}, expected {quoted(value)}"
    children = dict(module.named_children())
    for child, fresh_child in fresh.named_children():
        place = f"{name}.{child}".lstrip(".")
        if child in children:
            yield from _attribute_differences(children[child], fresh_child, states, place)
        else:
            yield f"module {place} is missing"


def _rounded(one: object, other: object) -> bool:
    """Whether two numbers are one, computed in two ways."""
    return isinstance(one, float) and isinstance(other, float) and math.isclose(one, other, rel_tol=1e-12)


def _is_quantised(module: nn.Module) -> bool:
    return hasattr(module, "quantization_scheme") or hasattr(module, "quantization_status")
