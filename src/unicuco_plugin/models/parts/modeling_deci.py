"""Llama with blocks of several sizes, as vLLM's ``DeciLMForCausalLM`` has them: halves may be absent, MLPs narrower.

An absent half has no weights, and neither has the norm before it; an absent attention has no key-value cache in vLLM.
What differs between blocks stands in ``configuration_deci.py``. This file needs Transformers and the two files beside
it; copies lie beside every such checkpoint, so that ``AutoModelForCausalLM.from_pretrained(folder,
trust_remote_code=True)`` builds the model. Written by unicuco-plugin, Apache-2.0.
"""

import shutil
import sys
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import LlamaForCausalLM

from .configuration_deci import DeciLMConfig
from .modeling_compact import RemovedAttention, RemovedMLP, resize_mlp

__all__ = ["AUTO_MAP", "FILES", "DeciLMForCausalLM", "leave_out"]

FILES = ("configuration_deci.py", "modeling_deci.py", "modeling_compact.py")
AUTO_MAP = {
    "AutoConfig": "configuration_deci.DeciLMConfig",
    "AutoModelForCausalLM": "modeling_deci.DeciLMForCausalLM",
}


class DeciLMForCausalLM(LlamaForCausalLM):
    """Llama whose blocks have what ``block_configs`` says."""

    config_class = DeciLMConfig

    def __init__(self, config: DeciLMConfig) -> None:
        super().__init__(config)
        for index, (block, own) in enumerate(zip(self.model.layers, config.block_configs, strict=True)):
            if own.attention.no_op:
                leave_out(block, "attention", config.hidden_size, index)
            else:
                for name in ("q_proj", "k_proj", "v_proj"):
                    _set_bias(block.self_attn.get_submodule(name), has=config.qkv_bias)
            if own.ffn.no_op:
                leave_out(block, "mlp", config.hidden_size, index)
            else:
                resize_mlp(block.mlp, own.ffn.intermediate_size, bias=config.mlp_bias)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Save as ever, and the code beside it."""
        self.config.auto_map = dict(AUTO_MAP)  # a hub's name may stand in the one that was read
        super().save_pretrained(save_directory, *args, **kwargs)
        self.write_code(Path(save_directory))

    @staticmethod
    def write_code(folder: Path) -> None:
        """Copy what ``trust_remote_code`` needs into a folder."""
        own = Path(str(sys.modules[__name__].__file__)).parent
        for name in FILES:
            shutil.copyfile(own / name, folder / name)


def leave_out(block: nn.Module, half: str, width: int, index: int) -> None:
    """Take a half and its norm out of a block.

    Args:
        block: With Llama's names.
        half: ``attention`` or ``mlp``.
        width: The model's hidden size.
        index: The block's.
    """
    if half == "attention":
        block.self_attn = RemovedAttention(width, bias=False, layer_idx=index)
        block.input_layernorm = nn.Identity()
    else:
        block.mlp = RemovedMLP(width, bias=False)
        block.post_attention_layernorm = nn.Identity()


def _set_bias(module: nn.Module, *, has: bool) -> None:
    linear = cast(nn.Linear, module)
    if not has:
        linear.register_parameter("bias", None)
    elif linear.bias is None:
        weight = linear.weight
        linear.bias = nn.Parameter(torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device))
