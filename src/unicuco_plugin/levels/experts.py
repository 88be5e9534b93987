"""Experts as linears for a while: taken apart by llm-compressor's own classes, and put together again."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from unicuco_plugin.errors import UnsupportedModelError, clip
from unicuco_plugin.models.blocks.experts import fuse_experts, fused_tensors
from unicuco_plugin.models.blocks.mixtures import find_fused
from unicuco_plugin.models.tensors.storage import kept_device, settle

__all__ = ["as_linears", "split_experts"]

# The names under which llm-compressor looks for sizes, each in the order in which it does.
_COUNT = ("num_local_experts", "moe_num_experts", "num_experts", "n_routed_experts")
_HIDDEN = ("moe_latent_size", "hidden_size", "hidden_dim")
_INNER = ("moe_intermediate_size", "intermediate_dim", "intermediate_size")


# Units in the last place of the largest output by which a family's kernel and linears may differ: GPT-OSS adds biases
# in another order.
_ROUNDING = 64.0


@contextmanager
def as_linears(model: Any) -> Iterator[None]:  # noqa: ANN401 - a Transformers model
    """Let every expert of a model be linears of its own inside a ``with``; its family's modules come back.

    Experts that were quantised meanwhile stay apart. Raises as :func:`split_experts`.
    """
    split_experts(model)
    try:
        yield
    finally:
        fuse_experts(model)


@torch.no_grad()
def split_experts(model: Any) -> None:  # noqa: ANN401 - a Transformers model
    """Give every expert linears of its own, ``experts.N.gate_proj`` and so on, as llm-compressor does.

    Its own function takes the sizes from the configuration, which some families spell otherwise (Hunyuan), and its
    numbers from the configuration's dtype; here both are those of the tensors.

    Args:
        model: Changed in place, one module after another; nothing where no family's experts are fused.

    Raises:
        UnsupportedModelError: If llm-compressor does not know how, or the tensors would not come back bit for bit; what
            was taken apart by then is together again.
    """
    try:
        for name, fused in find_fused(model).items():
            split = _split(name, fused)
            _check(name, fused, split)
            model.set_submodule(name, split)
    except BaseException:
        fuse_experts(model)
        raise


def _split(name: str, fused: Any) -> nn.Module:  # noqa: ANN401 - Transformers' classes are untyped
    from llmcompressor.modeling.moe.linear_experts import LinearExperts2D  # noqa: PLC0415 - slow to import

    try:
        kind: Any = LinearExperts2D.get_linear_experts_cls(type(fused))
        split = kind(_sizes(fused))
        for index in range(split.num_experts):
            split[index].copy_from_experts_module(fused, index)
    except Exception as error:
        # The toolkit raises whatever its guesses about a configuration run into.
        raise UnsupportedModelError(
            f"{name}: llm-compressor cannot make linears of these experts: {clip(str(error), 120)}; take the space "
            "depth"
        ) from error
    if isinstance(getattr(fused, "act_fn", None), nn.Module):
        split.act_fn = fused.act_fn
    split._source_experts_cls, split._source_config = type(fused), fused.config
    split.train(fused.training)
    split.to(kept_device(fused, "down_proj"))
    for module in split.modules():
        settle(module, fused)
    return split


def _check(name: str, fused: Any, split: nn.Module) -> None:  # noqa: ANN401
    """Refuse linears that would not become the family's tensors again, or that compute something else."""
    back = fused_tensors(name, split)
    if any(not torch.equal(back[field], tensor) for field, tensor in fused.named_parameters()):
        raise UnsupportedModelError(
            f"{name}: llm-compressor's linears of these experts hold other numbers than the family's tensors, so they "
            "cannot be put back; take the space depth"
        )
    down = fused.down_proj
    count, hidden = down.shape[0], down.shape[2 if fused.is_transposed else 1]
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(count, hidden, generator=generator).to(down)
    chosen = torch.arange(count, device=down.device)[:, None]
    weights = torch.ones(count, 1).to(down)
    try:
        expected = fused(states, chosen, weights)
    except RuntimeError as error:
        raise UnsupportedModelError(
            f"{name}: Transformers does not run these experts in {str(down.dtype).removeprefix('torch.')}: "
            f"{clip(str(error), 100)}; load the model in another dtype (--dtype)"
        ) from error
    # The same numbers in other kernels, whose sums have another order.
    slack = float(_ROUNDING * torch.finfo(down.dtype).eps * expected.abs().max())
    try:
        computed = split(states, chosen, weights)
    except Exception as error:  # whatever the toolkit's guesses about a family run into
        raise UnsupportedModelError(
            f"{name}: llm-compressor's linears of these experts do not run: {clip(str(error), 120)}; take another "
            "version of it, or another model"
        ) from error
    if not torch.allclose(computed, expected, rtol=0, atol=slack):
        raise UnsupportedModelError(
            f"{name}: llm-compressor's linears of these experts compute something else than the family's module: no "
            "share of them can be zeroed; take the space depth"
        )


def _sizes(fused: Any) -> Any:  # noqa: ANN401 - a configuration
    """The module's configuration with its tensors' sizes under every name that llm-compressor may ask for."""
    config = copy.copy(fused.config)
    down = fused.down_proj
    count, hidden, inner = down.shape if not fused.is_transposed else (down.shape[0], down.shape[2], down.shape[1])
    vars(config).pop("attribute_map", None)
    for names, value in ((_COUNT, count), (_HIDDEN, hidden), (_INNER, inner), (("dtype",), down.dtype)):
        for field in names:
            setattr(config, field, value)
    return config
