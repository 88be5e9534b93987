"""Low-rank adapters on a model's linears (peft), and the weights that they become.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022, arXiv 2106.09685).
"""

from typing import Any

import torch
from torch import Tensor, nn

from unicuco_plugin.errors import EvaluationError, UnsupportedModelError, clip
from unicuco_plugin.models.blocks.mixtures import find_routers

__all__ = ["adapter_weights", "add_adapters", "find_adaptable", "require_peft"]

# Share of exact zeros above which a linear was pruned to them: rounding to 16 bits makes a few in ten thousand.
_MASKED = 0.01


def require_peft() -> Any:  # noqa: ANN401 - peft is untyped
    """The package that makes adapters.

    Raises:
        EvaluationError: If it is not installed.
    """
    try:
        import peft  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise EvaluationError(
            f"healing needs peft, which cannot be imported ({clip(str(error))}): pip install 'unicuco-plugin[heal]'"
        ) from error
    return peft


def find_adaptable(model: Any, name: str) -> list[str]:  # noqa: ANN401 - a Transformers model
    """The linears that may change: neither the head nor routers, nor what was silenced and is all zeros.

    Args:
        model: A compressed model in memory.
        name: What messages call it.

    Raises:
        UnsupportedModelError: If a linear is sparse by a mask, whose zeros adapters would fill, or there is no linear.
    """
    config = model.config.get_text_config(decoder=True)
    passed = {model.get_output_embeddings(), *find_routers(model, getattr(config, "hidden_size", 0))}
    found = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.Linear) or module in passed:
            continue
        zeros = float((module.weight == 0).float().mean())
        if _MASKED < zeros < 1.0:
            raise UnsupportedModelError(
                f"{name}: {zeros:.0%} of {clip(path, 60, middle=True)} are zeros, which merged adapters would fill: "
                "heal a checkpoint without masks (spaces depth, sublayer, structured in the forms compact and deci)"
            )
        if zeros < 1.0:
            found.append(path)
    if not found:
        raise UnsupportedModelError(f"{name}: has no nn.Linear that an adapter could be put on; take another family")
    return found


def add_adapters(model: Any, linears: list[str], rank: int, seed: int) -> Any:  # noqa: ANN401
    """Put an adapter on each linear; it changes nothing yet, and all else is frozen.

    Args:
        model: Changed in place.
        linears: Full names.
        rank: Of the adapters' products.
        seed: Decides their first factors; the global generator is left as it was.

    Returns:
        peft's model around it, whose ``merge_and_unload`` makes one as before.

    Raises:
        UnsupportedModelError: If peft refuses one of them.
    """
    peft = require_peft()
    # Of a product scaled by 2 / rank, the usual choice, so that a learning rate serves several ranks.
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=linears)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(model, config).eval()
        except ValueError as error:  # such as a Mamba block's output, whose kernels read the weight past the adapter
            raise UnsupportedModelError(f"peft puts no adapters on this model: {clip(str(error), 200)}") from error


def adapter_weights(wrapped: nn.Module) -> dict[str, Tensor]:
    """The adapters' own weights, the only ones that learn, by name."""
    return {name: weight for name, weight in wrapped.named_parameters() if weight.requires_grad}
