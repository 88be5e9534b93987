"""The configuration of a model of Llama's mathematics whose blocks differ: ``block_configs`` tells each one's halves.

A block's ``attention`` and ``ffn`` each have ``no_op``, true where the block has none; an attention has
``n_heads_in_group``, query heads to a key-value head, and an MLP ``intermediate_size``. ``qkv_bias`` says whether
queries, keys and values have biases, ``attention_bias`` whether the output projection has one.

vLLM reads these fields for its ``DeciLMForCausalLM``, and lets this file build the configuration
(``--trust-remote-code``). It needs Transformers alone; a copy lies beside every such checkpoint. Written by
unicuco-plugin, Apache-2.0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import LlamaConfig

__all__ = ["DeciLMConfig"]


class _Fields(dict[str, Any]):
    """A mapping whose entries are attributes too: files hold the one, vLLM asks for the others."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the file says
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class DeciLMConfig(LlamaConfig):
    """Llama's configuration, and what each block has of it.

    Attributes:
        block_configs: As above, one for each block.
        qkv_bias: As above.

    Raises:
        ValueError: If a block does not say what it has in this way; other makers of such models write other fields.
    """

    model_type = "nemotron-nas"

    def __init__(
        self,
        *,
        block_configs: Sequence[Mapping[str, Mapping[str, Any]]] = (),
        qkv_bias: bool = False,
        **fields: Any,  # noqa: ANN401 - Llama's
    ) -> None:
        blocks = [_Fields({half: _Fields(own) for half, own in block.items()}) for block in block_configs]
        for index, block in enumerate(blocks):
            for half, size in (("attention", "n_heads_in_group"), ("ffn", "intermediate_size")):
                own = block.get(half, {})
                if own.get("no_op") is not True and not isinstance(own.get(size), int):
                    raise ValueError(f"block_configs[{index}].{half} must have no_op: true or {size}, got {own}")
        super().__init__(**fields)
        self.block_configs, self.qkv_bias = blocks, qkv_bias
