"""What one family of models is called by: modules of a block, fields of a configuration, and what sets it apart.

Most of what this package does it finds out by structure and by numbers; this is what is left of names. The defaults are
those of all families that Transformers has, since one name hardly ever means two things. A family that needs more has
an entry of its own in :mod:`.known`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from unicuco_plugin.models.families.rules import (
    Rule,
    forget_drafts,
    recount_sparse_range,
    rescale_depth,
    write_out_sparse_step,
)

__all__ = ["HALVES", "Family", "Half", "Kind"]

Kind = Literal["attention", "mlp"]
# A block's two halves, in the order they run.
HALVES: tuple[Kind, Kind] = ("attention", "mlp")


@dataclass(frozen=True)
class Half:
    """An attention, or an MLP.

    In ``names`` and ``linears`` the first is what Llama has, which the code that lies beside compact checkpoints
    (``parts/modeling_compact.py``, importing nothing of ours) knows alone.

    Attributes:
        names: What the module may be called within its block. Whatever mixes tokens is an attention.
        linears: What its linears may be called if it can be split into parts: those that feed a part, then the output
            projection. Of three, the first (an MLP's gate) may be missing.
        size: The configuration field that says how many parts it has.
        bias: The configuration field that gives all these linears a bias, where a family has such a field.
    """

    names: tuple[str, ...]
    linears: tuple[tuple[str, ...], ...]
    size: str
    bias: str


@dataclass(frozen=True)
class Family:
    """One family. The first group names modules, the second fields of the configuration, the third what is special.

    Attributes:
        attention, mlp: The two halves of a block.
        outputs: What the last linear of a half may be called, whose output is added to the states.
        places: Attributes by which modules in a block remember its index; counted from 0 or from 1.
        head_counts: Attributes by which attentions remember how many heads they have.
        noted: Attributes that a model sets when it is built if a block has a kind of attention -> that kind, as
            ``layer_types`` spells it.
        states: Attributes that tell of a module's use and not of its structure, beyond those that all have.

        indices: Fields that list blocks by index: entries are remapped, those of dropped blocks vanish.
        counts: Fields ``k`` that mean "the first ``k`` blocks".
        per_block: Fields with one entry for each block whose names do not say so (``layer`` or ``block`` in them does).
        longer: Those with an entry for each block that may have more of them.
        rules: How other fields follow when blocks go.
        ties: Fields that tie a block to its place or to other blocks -> the values under which they do not.
        frequencies: Fields ``n`` that make every n-th block sparse by its place when the model is built; dropped blocks
            would shift that.
        heads: The field that counts query heads.
        chosen: Fields that count the experts that a token goes through.
        window: What a layer of a cache calls the most tokens that it keeps.
        latent: Fields whose sum a server keeps of a token in place of keys and values, where attention is latent.
        drafts: Fields that count draft heads, whose sizes follow the dense model's.
        senses: Parts of a configuration that read something else than text.
        positions: The field that says after how many positions the model ends, where these are no embedding.

        encoder: Whether it fills masks, where Transformers does not list it among those that do.
        refused: Why it cannot be pruned; empty where it can.
        llama_like: Whether it computes what Llama does, but for windows that slide: then vLLM's ``DeciLMForCausalLM``
            computes it with blocks that differ.
    """

    attention: Half = Half(
        names=("self_attn", "attention", "self_attention", "attn", "linear_attn", "conv", "mamba"),
        linears=(("q_proj", "k_proj", "v_proj", "o_proj"), ("q_proj", "k_proj", "v_proj", "out_proj")),
        size="num_key_value_heads",
        bias="attention_bias",
    )
    mlp: Half = Half(
        names=("mlp", "feed_forward", "block_sparse_moe", "ffn", "moe", "shared_mlp"),
        linears=(("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2")),
        size="intermediate_size",
        bias="mlp_bias",
    )
    outputs: tuple[str, ...] = (
        "o_proj", "out_proj", "dense", "c_proj", "wo", "down_proj", "dense_4h_to_h", "w2", "fc2", "fc_out",
    )  # fmt: skip
    places: tuple[str, ...] = ("layer_idx", "layer_id", "layer_index", "layer_number", "block_idx", "block_index")
    head_counts: tuple[str, ...] = ("num_heads", "num_attention_heads", "num_key_value_heads")
    # Qwen2, Qwen3 and SmolLM3.
    noted: Mapping[str, str] = field(default_factory=lambda: {"has_sliding_layers": "sliding_attention"})
    # RWKV notes whether a forward pass has scaled its weights yet.
    states: frozenset[str] = frozenset({"layers_are_rescaled"})

    indices: frozenset[str] = frozenset({
        "attn_layer_indices", "cross_attention_layers", "full_attn_idxs", "global_attn_idxs", "hybrid_layer_ids",
        "mlp_only_layers", "moe_layers", "ple_layer_ids",
    })  # fmt: skip
    counts: tuple[str, ...] = ("max_window_layers", "first_k_dense_replace", "num_dense_layers")
    per_block: frozenset[str] = frozenset({
        "activation_sparsity_pattern", "ffn_multipliers", "intermediate_size", "moe_layer_freq", "num_attention_heads",
        "num_key_value_heads", "num_query_heads", "num_kv_heads", "rope_theta", "sliding_window",
    })  # fmt: skip
    # Written for every block by Transformers.
    longer: frozenset[str] = frozenset({"no_rope_layers", "layer_types"})
    rules: tuple[Rule, ...] = (write_out_sparse_step, recount_sparse_range, rescale_depth, forget_drafts)
    ties: Mapping[str, tuple[object, ...]] = field(
        default_factory=lambda: {
            "num_kv_shared_layers": (None, 0),
            "cla_share_factor": (None, 1),
            "scale_attn_by_inverse_layer_idx": (None, False),
            "per_layer_config": (None, {}),
        }
    )
    frequencies: tuple[str, ...] = ("moe_layer_freq",)  # DeepSeek's own code
    heads: str = "num_attention_heads"
    chosen: tuple[str, ...] = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")
    window: str = "sliding_window"
    latent: tuple[str, ...] = ("kv_lora_rank", "qk_rope_head_dim")
    # llm-compressor copies the tensors of multi-token prediction where there are any.
    drafts: frozenset[str] = frozenset({"mtp_num_hidden_layers", "num_mtp_layers", "num_nextn_predict_layers"})
    senses: frozenset[str] = frozenset({"vision_config", "audio_config", "audio_encoder_config"})
    positions: str = ""

    encoder: bool = False
    refused: str = ""
    llama_like: bool = False

    def half(self, kind: Kind) -> Half:
        """The half of that kind."""
        return self.attention if kind == "attention" else self.mlp
