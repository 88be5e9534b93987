"""Tiny random mixtures of experts of each family, beside ``tiny``."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf

__all__ = ["MIXTURES", "tiny_mixture"]

_COMMON: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.2,
    "num_hidden_layers": 4,
}  # fmt: skip
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_FEW = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LATENT = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16,
    "v_head_dim": 16, "num_key_value_heads": 4,
}  # fmt: skip
_LINEAR = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "shared_expert_intermediate_size": 16, "head_dim": 8,
}  # fmt: skip
_FULL = ["full_attention"] * 4


def _make(name: str, config: str | None = None, **fields: Any) -> Callable[[], tf.PreTrainedConfig]:
    return lambda: getattr(tf, config or f"{name}Config")(**(_COMMON | fields))


MIXTURES: dict[str, Callable[[], tf.PreTrainedConfig]] = {
    "mixtral": _make("Mixtral", **_LOCAL),
    "qwen2_moe": _make("Qwen2Moe", **_FEW, shared_expert_intermediate_size=16),
    "qwen3_moe": _make("Qwen3Moe", **_FEW, head_dim=8),
    "gpt_oss": _make("GptOss", **_LOCAL, head_dim=8, sliding_window=8),
    "granitemoe": _make("GraniteMoe", **_LOCAL),
    "granitemoeshared": _make("GraniteMoeShared", **_LOCAL, shared_intermediate_size=16),
    "phimoe": _make("Phimoe", **_LOCAL),
    "minimax": _make("MiniMax", **_LOCAL, layer_types=_FULL, block_size=8),
    "lfm2_moe": _make("Lfm2Moe", **_FEW, num_dense_layers=1, layer_types=["conv", "full_attention"] * 2),
    "deepseek_v2": _make("DeepseekV2", **_LATENT, n_shared_experts=1),
    "deepseek_v3": _make("DeepseekV3", **_LATENT, n_shared_experts=1),
    "glm4_moe": _make(
        "Glm4Moe", n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, n_group=1, topk_group=1,
        first_k_dense_replace=1, head_dim=8,
    ),
    "hunyuan": _make(
        "HunYuanMoEV1", num_experts=4, moe_topk=2, moe_intermediate_size=16, head_dim=8, num_shared_expert=1
    ),
    "olmoe": _make("Olmoe", num_experts=4, num_experts_per_tok=2),
    "flex_olmo": _make("FlexOlmo", num_experts=4, num_experts_per_tok=2),
    "qwen3_next": _make("Qwen3Next", **_FEW, **_LINEAR),
    "qwen3_5_moe": _make("Qwen3_5Moe", "Qwen3_5MoeTextConfig", **_FEW, **_LINEAR),
    "ernie4_5_moe": _make(
        "Ernie4_5_Moe", moe_num_experts=4, moe_k=2, moe_intermediate_size=16, moe_layer_start_index=1,
        moe_num_shared_experts=1,
    ),
    "dots1": _make(
        "Dots1", n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, n_group=1, topk_group=1,
        first_k_dense_replace=1, head_dim=8, n_shared_experts=1,
    ),
    "minimax_m2": _make("MiniMaxM2", **_LOCAL, head_dim=8, rotary_dim=4),
    "nemotron_h": _make(
        "NemotronH", n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, n_group=1, topk_group=1,
        moe_shared_expert_intermediate_size=16, mamba_num_heads=8, mamba_head_dim=8, ssm_state_size=4, n_groups=1,
        chunk_size=8, head_dim=8, layers_block_type=["moe", "attention", "moe", "attention"],
    ),
    "jamba": _make(
        "Jamba", num_experts=4, num_experts_per_tok=2, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2,
        expert_layer_offset=1, mamba_d_state=4, mamba_dt_rank=4, use_mamba_kernels=False,
    ),
    "granitemoehybrid": _make(
        "GraniteMoeHybrid", **_LOCAL, shared_intermediate_size=16, layer_types=["attention"] * 4,
        mamba_n_heads=8, mamba_d_head=8, mamba_d_state=4, mamba_n_groups=1, mamba_chunk_size=8,
    ),
}  # fmt: skip


def tiny_mixture(family: str, seed: int = 0) -> tf.PreTrainedModel:
    """Build a random mixture of experts in evaluation mode; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = tf.AutoModelForCausalLM.from_config(MIXTURES[family](), dtype=torch.float32)
    return model.eval()
