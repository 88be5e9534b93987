"""Tiny configurations of every decoder-only family, several of those that people use most."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as tf
from tiny import VOCABULARY, tiny_tokenizer
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

__all__ = ["ANIMALS", "Animal", "build", "save"]

# Fields under the names that families have for them; each family gets those that it has.
_SIZES: Mapping[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
    "sliding_window": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    # Large enough that every block matters to the logits.
    "initializer_range": 0.2, "init_std": 0.2,
    # experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
    # latent attention, and indexed
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "index_n_heads": 2, "index_head_dim": 16, "index_topk": 32, "o_lora_rank": 16, "o_groups": 2,
    # linear attention and state spaces
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1, "mamba_chunk_size": 8,
    "mamba_dt_rank": 4, "state_size": 4, "use_mamba_kernels": False,
}  # fmt: skip
_FULL, _SLIDING = "full_attention", "sliding_attention"
_SLIDES = {"layer_types": [_FULL, _SLIDING, _SLIDING, _FULL]}
_DENSE_FIRST = {"first_k_dense_replace": 1}
# Latent attention has as many keys as queries.
_LATENT = {"num_key_value_heads": 4}
_LATENT_ATTENTION = "axk1 axk2 deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa minicpm3 youtu"
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}


@dataclass(frozen=True)
class Animal:
    """One configuration.

    Attributes:
        family: Its ``model_type``.
        fields: What it says beyond the sizes that every family gets; an ellipsis takes one of these away.
    """

    family: str
    fields: Mapping[str, Any] = field(default_factory=dict)


# Families for which the common sizes are enough.
_PLAIN = """
afmoe apertus arcee biogpt bitnet bloom cohere cohere2 cohere2_moe cwm deepseek_v4 diffllama doge ernie4_5
ernie4_5_moe exaone4 exaone_moe falcon_mamba flex_olmo gemma gemma2 glm glm4 glm4_moe gpt-sw3 gpt2 gpt_bigcode
gpt_neox gpt_neox_japanese gpt_oss granite granite_swa granitemoe granitemoe_swa granitemoeshared helium hrm_text
hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4 hyperclovax jais2 jetmoe laguna lfm2 llama llama4_text mamba mellum
mimo_v2_flash minimax minimax_m2 ministral ministral3 mistral mixtral modernbert-decoder mpt nanochat nemotron olmo
olmo2 olmo3 olmo_hybrid olmoe openai-gpt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_5_moe_text qwen3_5_text
qwen3_moe qwen3_next recurrent_gemma rwkv seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma
"""

# What other families need to be built, or to be small.
_SPECIAL: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(
        _LATENT_ATTENTION.split(), _LATENT
    ),
    "codegen": {"rotary_dim": 4},
    "gptj": {"rotary_dim": 4},
    "aria_text": {"moe_num_experts": 4, "moe_num_shared_experts": 1},
    "bamba": {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {"head_dim": ..., "rope_parameters": {_FULL: _ROPE, _SLIDING: _ROPE}, **_SLIDES},
    "cpmant": {"dim_head": 8, "dim_ff": 48, "prompt_length": 4, "prompt_types": 4},
    "ctrl": {"dff": 48, "n_positions": 256},
    "dbrx": {
        "hidden_size": ..., "d_model": 32,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots1": {"n_shared_experts": 1},
    "falcon": {"head_dim": ...},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3_text": {"query_pre_attn_scalar": 8, **_SLIDES},
    "gemma3n_text": {
        "layer_types": [_SLIDING, _FULL, _SLIDING, _FULL], "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY, "laurel_rank": 4, "intermediate_size": [48] * 4,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4_text": {
        "global_head_dim": 16, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": VOCABULARY, **_SLIDES,
    },
    "gemma4_unified_text": {
        "global_head_dim": 16, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": VOCABULARY, **_SLIDES,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 8},
    "granitemoehybrid": {"shared_intermediate_size": 16, "layer_types": ["mamba", "attention"] * 2},
    "inkling_text": {
        "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8, "sliding_window_size": 8,
        "rel_extent": 16, "d_rel": 4, "n_shared_experts": 1,
    },
    "jamba": {
        "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
    },
    "kimi_linear": {
        "linear_head_dim": 8, "linear_num_heads": 4, "q_lora_rank": None,
        "layer_types": ["linear_attention", _FULL] * 2, **_LATENT,
    },
    "lfm2_moe": {"layer_types": ["conv", _FULL] * 2, "num_dense_layers": 2},
    "longcat_flash": {
        "num_hidden_layers": ..., "num_layers": 4, "zero_expert_num": 2, "expert_ffn_hidden_size": 16,
        "ffn_hidden_size": 48, "moe_topk": 2, **_LATENT,
    },
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "minimax_m3_vl_text": {
        "dense_intermediate_size": 48, "shared_intermediate_size": 16, "rotary_dim": 4, "index_block_size": 4,
        "index_topk_blocks": 2,
    },
    "nemotron_h": {
        "num_hidden_layers": ..., "layers_block_type": ["mamba", "attention", "mlp", "mamba"], "ssm_state_size": 4,
        "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 1, "chunk_size": 8,
    },
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.2},
    "qwen4_exp_text": {
        "hc_count": 2, "hc_lowrank": 8, "output_gate_type": "silu", "indexer_n_heads": 2, "indexer_kv_heads": 1,
        "indexer_head_dim": 8, "indexer_budget": 8, "indexer_compress_ratio": 4,
    },
    "xglm": {"ffn_dim": 48, "init_std": 0.2},
    "xlstm": {
        # Transformers 5.17 makes a cache that fits no other shape of heads.
        "hidden_size": 64, "qk_dim_factor": 1.0, "v_head_dim": ..., "head_dim": ..., "num_heads": 4, "chunk_size": 8,
    },
    "zamba": {"layers_block_type": ["mamba", "hybrid"] * 2, "n_mamba_heads": 2, "num_key_value_heads": 4},
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "n_mamba_heads": 8, "mamba_ngroups": 1,
        "chunk_size": 8, "adapter_rank": 4, "num_key_value_heads": 4,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}  # fmt: skip

# More of the families that people deploy: what checkpoints of one family differ in.
_VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "cohere2-slides": ("cohere2", _SLIDES),
    "deepseek_v2-no_q_lora": ("deepseek_v2", {"q_lora_rank": None, **_DENSE_FIRST, **_LATENT}),
    "deepseek_v3-dense_first": ("deepseek_v3", {**_DENSE_FIRST, **_LATENT}),
    "deepseek_v3-all_dense": ("deepseek_v3", {"first_k_dense_replace": 4, **_LATENT}),
    "exaone4-slides": ("exaone4", _SLIDES),
    "falcon-alibi": ("falcon", {"head_dim": ..., "alibi": True, "multi_query": False}),
    "falcon-new": ("falcon", {"head_dim": ..., "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-sequential": ("falcon", {"head_dim": ..., "parallel_attn": False, "bias": True}),
    "gemma2-tied_mqa": ("gemma2", {"num_key_value_heads": 1, "query_pre_attn_scalar": 8, "tie_word_embeddings": True}),
    "glm4_moe-dense_first": ("glm4_moe", {"use_qk_norm": True, **_DENSE_FIRST}),
    "gpt2-by_layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "gpt_neox-sequential": ("gpt_neox", {"use_parallel_residual": False, "tie_word_embeddings": True}),
    "gpt_oss-full": ("gpt_oss", {"layer_types": [_FULL] * 4}),
    "granite-scaled": ("granite", {"residual_multiplier": 0.5, "logits_scaling": 2.0, "embedding_multiplier": 3.0}),
    "hunyuan_v1_dense-biases": ("hunyuan_v1_dense", {"attention_bias": True}),
    "lfm2-mixed": ("lfm2", {"layer_types": ["conv", _FULL, "conv", _FULL]}),
    "lfm2_moe-all_sparse": ("lfm2_moe", {"layer_types": ["conv", _FULL] * 2, "num_dense_layers": 0}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-mha": ("llama", {"num_key_value_heads": 4}),
    "llama-mqa": ("llama", {"num_key_value_heads": 1}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-two_blocks": ("llama", {"num_hidden_layers": 2}),
    "llama-wide_heads": ("llama", {"head_dim": 16}),
    "llama4_text-dense": ("llama4_text", {"moe_layers": [], "intermediate_size_mlp": 48}),
    "mistral-full": ("mistral", {"sliding_window": None}),
    "mixtral-top1": ("mixtral", {"num_experts_per_tok": 1, "sliding_window": None}),
    "nemotron_h-experts": (
        "nemotron_h",
        {
            **_SPECIAL["nemotron_h"], "layers_block_type": ["mamba", "attention", "moe", "mamba"],
            "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
            "moe_shared_expert_intermediate_size": 16,
        },
    ),
    "olmo3-slides": ("olmo3", _SLIDES),
    "opt-projected": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 16, "init_std": 0.2}),
    "opt-post_norm": (
        "opt", {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.2, "do_layer_norm_before": False},
    ),
    "phi-qk_norm": ("phi", {"qk_layernorm": True}),
    "phi3-tied": ("phi3", {"tie_word_embeddings": True, "sliding_window": None}),
    "qwen2-slides": ("qwen2", {"use_sliding_window": True, "max_window_layers": 2, "tie_word_embeddings": True}),
    "qwen2_moe-mixed": ("qwen2_moe", {"decoder_sparse_step": 2, "output_router_logits": True}),
    "qwen3-tied_biases": ("qwen3", {"tie_word_embeddings": True, "attention_bias": True}),
    "qwen3_moe-mixed": ("qwen3_moe", {"mlp_only_layers": [0, 2]}),
    "qwen3_5_text-all_full": ("qwen3_5_text", {"layer_types": [_FULL] * 4}),
    "smollm3-nope": ("smollm3", {"no_rope_layer_interval": 2, "tie_word_embeddings": True}),
    "stablelm-parallel": ("stablelm", {"qk_layernorm": True, "use_parallel_residual": True, "num_key_value_heads": 4}),
    "starcoder2-full": ("starcoder2", {"sliding_window": None, "use_bias": False}),
}  # fmt: skip

ANIMALS: Mapping[str, Animal] = dict(
    sorted(
        {
            **{name: Animal(name) for name in _PLAIN.split()},
            **{name: Animal(name, fields) for name, fields in _SPECIAL.items()},
            **{name: Animal(family, fields) for name, (family, fields) in _VARIANTS.items()},
        }.items()
    )
)


def _has(config: tf.PreTrainedConfig, field: str) -> bool:
    try:
        return hasattr(config, field)
    except AttributeError:
        return False
    except Exception:  # Gemma 4: an attribute that blocks may differ in is there, and not told
        return True


def build(name: str, device: str = "cpu") -> tf.PreTrainedModel:
    """Build a random model in evaluation mode; norms and biases are moved off what they begin with."""
    animal = ANIMALS[name]
    kind = CONFIG_MAPPING[animal.family]
    known = kind()
    fields = {key: value for key, value in _SIZES.items() if _has(known, key)} | dict(animal.fields)
    config = kind(**{key: value for key, value in fields.items() if value is not ...})
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        model = MODEL_FOR_CAUSAL_LM_MAPPING[kind]._from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                # Gates that begin with zeros (xLSTM) are dense in a trained model, too.
                if parameter.dim() == 1 or (parameter.device.type != "meta" and not parameter.any()):
                    parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    return model


def save(name: str, folder: Any) -> None:
    """Build a model and save it with a tokenizer."""
    build(name).save_pretrained(folder)
    tiny_tokenizer(folder)
