"""A model without weights, from a configuration alone."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from unicuco_plugin.errors import UnsupportedModelError, clip, quoted
from unicuco_plugin.models.blocks.mixtures import find_fused
from unicuco_plugin.models.checkpoints.loadability import build_sketch

__all__ = ["run_sketch", "sketch_from_fields", "sketch_model"]

# Blocks of a model that is built, or experts of one; the largest have a few hundred, and a file may say any number.
_MOST = 2_000
_TOKENS = 2
_COUNTS = ("layers", "n_layer", "blocks", "experts")
# What says how a checkpoint is stored or which code loads it, and not what its model is.
_BESIDE = frozenset({"quantization_config", "compression_config", "auto_map"})


def sketch_model(
    config: PreTrainedConfig, kind: type[PreTrainedModel] | None = None, *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Build a model without weights from a configuration, which is not changed.

    Args:
        config: Of the dense model.
        kind: The model's class, where it is in memory; found by its configuration otherwise.
        trust_remote_code: Whether code in the model's own repository may run.

    Raises:
        UnsupportedModelError: If Transformers builds none.
    """
    try:
        if kind is not None:
            return build_sketch(kind, config)
        own = copy.deepcopy(config)  # which the model would hold, and surgery change
        with torch.device("meta"):
            made: PreTrainedModel = AutoModelForCausalLM.from_config(own, trust_remote_code=trust_remote_code)
        return made
    except Exception as error:
        # Transformers, or the model's own code.
        raise UnsupportedModelError(
            f"{config.model_type}: Transformers builds no model from its configuration: {_first_line(error)}; "
            "mend config.json"
        ) from error


def sketch_from_fields(fields: Mapping[str, Any]) -> PreTrainedModel:
    """Build the model that a ``config.json`` describes, whether or how its checkpoint is quantised.

    No code of its own is run, and nothing is fetched.

    Args:
        fields: What the file holds.

    Raises:
        UnsupportedModelError: If Transformers knows no such family, or builds none from these fields.
    """
    family = fields.get("model_type")
    if not isinstance(family, str) or family not in CONFIG_MAPPING:
        raise UnsupportedModelError(f"model_type: Transformers knows no family {quoted(family)}")
    for name, value in _numbers(fields):
        if name.endswith(_COUNTS) and value > _MOST:
            raise UnsupportedModelError(f"{family}: {clip(name)} must be at most {_MOST:,}, got {quoted(value)}")
    own = {name: value for name, value in fields.items() if name not in _BESIDE and not name.startswith("_attn")}
    try:
        # Transformers writes what JSON has no number for as an object.
        config = CONFIG_MAPPING[family].from_dict(PreTrainedConfig._decode_special_floats(own))
    except Exception as error:  # whatever a family's configuration raises
        raise UnsupportedModelError(f"{family}: its configuration cannot be read: {_first_line(error)}") from error
    return sketch_model(config)


def run_sketch(sketch: PreTrainedModel, *, use_cache: bool) -> Any:  # noqa: ANN401 - Transformers' output
    """Run a model without weights on two tokens, experts left out; numbers that are asked for are zeros.

    Args:
        sketch: On the meta device. It is not good for anything else afterwards.
        use_cache: Whether what it keeps of the tokens is returned, too.
    """
    for stack in find_fused(sketch).values():
        stack.forward = _skip
    # Kernels that others compiled look at their numbers.
    sketch.config._attn_implementation = "eager"
    sketch.config.output_router_logits = False  # and losses of routers count tokens
    ids = torch.zeros(1, _TOKENS, dtype=torch.long, device="meta")
    with torch.no_grad(), _NoNumbers():
        return sketch(input_ids=ids, use_cache=use_cache)


def _numbers(fields: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Whole numbers of a configuration and of all within it, by their own names."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int):
            yield str(name), value


def _first_line(error: Exception) -> str:
    return clip(next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__), 120)


def _skip(states: Tensor, *_: object, **__: object) -> Tensor:
    return torch.empty_like(states)


class _NoNumbers(TorchDispatchMode):
    """Answers what is asked of numbers on the meta device with zeros, so that a forward pass goes on."""

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - PyTorch's signature
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        aten, given = torch.ops.aten, kwargs or {}
        if func is aten._local_scalar_dense.default:
            return torch.zeros((), dtype=args[0].dtype).item()
        if func is aten._to_copy.default and args[0].is_meta and given.get("device") == torch.device("cpu"):
            return torch.zeros(args[0].shape, dtype=given.get("dtype") or args[0].dtype)
        if func is aten.nonzero.default:
            return torch.empty(0, args[0].dim(), dtype=torch.long, device="meta")
        return func(*args, **given)
