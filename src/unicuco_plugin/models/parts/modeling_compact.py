"""Language models whose blocks differ in size: some have fewer heads or neurons, some no attention or no MLP.

``config.json`` tells the sizes in Transformers' ``per_layer_config``: ``num_key_value_heads`` (query heads follow, as
many to a key-value head as in the other blocks), ``intermediate_size``, ``skip`` (``attention``, ``mlp``; the size
beside it is 0) and ``output_bias`` (``attention``, ``mlp``: which of the two has a bias on its output).

This file needs Transformers alone. A copy of it lies beside every such checkpoint as ``modeling_compact.py``, so that
``AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`` builds the model. Written by unicuco-plugin,
Apache-2.0.
"""

import functools
import sys
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

__all__ = [
    "FILE",
    "HEAD_COUNTS",
    "RemovedAttention",
    "RemovedMLP",
    "auto_map",
    "compact_class",
    "resize_attention",
    "resize_mlp",
]

FILE = "modeling_compact.py"
# Under which names attentions remember how many heads they have.
HEAD_COUNTS = ("num_heads", "num_attention_heads", "num_key_value_heads")
_TAIL = "\n\n# Written for this checkpoint.\n"


class RemovedMLP(nn.Module):
    """Stands where an MLP was: gives zeros, or its bias.

    Args:
        width: The model's hidden size.
        bias: Whether it has a bias.
    """

    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Give what is left of the module's output, in the shape of its input."""
        zeros = torch.zeros_like(hidden_states)
        return zeros if self.bias is None else zeros + self.bias


class RemovedAttention(RemovedMLP):
    """Stands where an attention was: gives zeros, or its bias, and counts tokens in the cache.

    Args:
        width: The model's hidden size.
        bias: Whether it has a bias.
        layer_idx: The block's index.
    """

    def __init__(self, width: int, *, bias: bool, layer_idx: int) -> None:
        super().__init__(width, bias=bias)
        self.layer_idx = layer_idx

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        *args: Any,  # noqa: ANN401 - whatever the family hands its attention
        past_key_values: Any = None,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[Tensor, None]:
        """Give what is left of the attention's output, and no attention weights."""
        if past_key_values is not None:
            # Transformers reads the position from the first block's cache, so a removed one must have its length.
            marks = hidden_states.new_zeros(hidden_states.shape[0], 1, hidden_states.shape[1], 1)
            past_key_values.update(marks, marks, self.layer_idx)
        return super().forward(hidden_states), None


@functools.cache
def compact_class(base: Any) -> Any:  # noqa: ANN401 - a class made here has no name that a type could
    """Derive from a family's causal language model the class that builds its blocks in the sizes of the configuration.

    Args:
        base: A class whose blocks are ``model.layers`` with ``self_attn`` and ``mlp``.
    """

    class Compact(base):
        def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
            sizes = config.to_dict().get("per_layer_config", {})
            # With sizes in it the configuration refuses to tell any one size, which the family's code asks it for.
            config.per_layer_config = None
            try:
                super().__init__(config, *args, **kwargs)
            finally:
                config.per_layer_config = sizes
            for index, block in enumerate(self.base_model.layers):
                _resize(block, config.per_layer_config[index], config.hidden_size)

        def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
            self.config.auto_map = auto_map(type(self))  # a hub's name may stand in the one that was read
            super().save_pretrained(save_directory, *args, **kwargs)
            self.write_code(Path(save_directory))

        def write_code(self, folder: Path) -> None:
            source = Path(str(sys.modules[__name__].__file__)).read_text(encoding="utf8").partition(_TAIL)[0].rstrip()
            tail = f"from {base.__module__} import {base.__name__}\n\n{name} = compact_class({base.__name__})\n"
            (folder / FILE).write_text(f"{source}\n{_TAIL}{tail}", encoding="utf8")

    name = f"Compact{base.__name__}"
    Compact.__name__ = Compact.__qualname__ = name
    return Compact


def auto_map(kind: type) -> dict[str, str]:
    """Where ``trust_remote_code`` finds a class: in the file beside the checkpoint."""
    return {"AutoModelForCausalLM": f"{Path(FILE).stem}.{kind.__name__}"}


def _resize(block: nn.Module, config: PreTrainedConfig, width: int) -> None:
    biased, skip = getattr(config, "output_bias", []), getattr(config, "skip", [])
    attention, mlp = block.get_submodule("self_attn"), block.get_submodule("mlp")
    if "attention" in skip:
        index = cast(int, attention.layer_idx)
        block.self_attn = RemovedAttention(width, bias="attention" in biased, layer_idx=index)
    else:
        resize_attention(attention, config.num_key_value_heads, bias="attention" in biased)
    if "mlp" in skip:
        block.mlp = RemovedMLP(width, bias="mlp" in biased)
    else:
        resize_mlp(mlp, config.intermediate_size, bias="mlp" in biased)


def resize_attention(module: nn.Module, groups: int, *, bias: bool) -> None:
    """Give an attention new linears for so many head groups; weights are whatever memory held.

    Args:
        module: With linears ``q_proj``, ``k_proj``, ``v_proj``, ``o_proj``.
        groups: Key-value heads, each with the query heads that read it.
        bias: Whether the output projection shall have a bias, if it has none.
    """
    query, key, value, output = (
        cast(nn.Linear, module.get_submodule(name)) for name in ("q_proj", "k_proj", "v_proj", "o_proj")
    )
    before = key.out_features // cast(int, module.head_dim)
    module.q_proj = _linear(query, query.in_features, query.out_features // before * groups)
    module.k_proj = _linear(key, key.in_features, key.out_features // before * groups)
    module.v_proj = _linear(value, value.in_features, value.out_features // before * groups)
    module.o_proj = _linear(output, output.in_features // before * groups, output.out_features, bias=bias)
    for name in HEAD_COUNTS:
        heads = vars(module).get(name)
        if isinstance(heads, int):
            setattr(module, name, heads // before * groups)


def resize_mlp(module: nn.Module, neurons: int, *, bias: bool) -> None:
    """Give an MLP new linears for so many neurons; weights are whatever memory held.

    Args:
        module: With linears ``up_proj``, ``down_proj`` and, where it has a gate, ``gate_proj``.
        neurons: Inputs of ``down_proj``.
        bias: Whether ``down_proj`` shall have a bias, if it has none.
    """
    children = dict(module.named_children())
    for name in [name for name in ("gate_proj", "up_proj") if name in children]:
        linear = cast(nn.Linear, children[name])
        setattr(module, name, _linear(linear, linear.in_features, neurons))
    down = cast(nn.Linear, children["down_proj"])
    module.down_proj = _linear(down, neurons, down.out_features, bias=bias)
    if "intermediate_size" in vars(module):
        vars(module)["intermediate_size"] = neurons


def _linear(like: nn.Linear, inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    if (like.in_features, like.out_features) == (inputs, outputs) and (like.bias is not None or not bias):
        return like
    weight = like.weight
    made = nn.utils.skip_init(
        nn.Linear, inputs, outputs, bias=like.bias is not None or bias, device=weight.device, dtype=weight.dtype
    )
    return made.requires_grad_(weight.requires_grad).train(like.training)
