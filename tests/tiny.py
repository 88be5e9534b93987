"""Tiny random models of each family, and a tokenizer for them, built offline in milliseconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf

__all__ = [
    "FAMILIES",
    "OTHERS",
    "VOCABULARY",
    "linear_inputs",
    "tiny_mamba",
    "tiny_model",
    "tiny_tokenizer",
    "unfuse_experts",
]

VOCABULARY = 128
WORDS = [f"w{i}" for i in range(VOCABULARY - 4)]

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    # Large enough that every block matters to the logits.
    "initializer_range": 0.2,
}
_MOE = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
# Pattern of six that no family's default regenerates.
_MIXED = ["full_attention", "sliding_attention", "sliding_attention"] * 4


def _make(model: str, config: str, **fields: Any) -> Callable[..., tf.PreTrainedModel]:
    def build(blocks: int = 6) -> tf.PreTrainedModel:
        given = {name: value[:blocks] if isinstance(value, list) else value for name, value in fields.items()}
        settings = {name: value for name, value in (_COMMON | given).items() if value is not ...}
        settings["num_hidden_layers"] = blocks
        return getattr(tf, model)(getattr(tf, config)(**settings))

    return build


FAMILIES: dict[str, Callable[..., tf.PreTrainedModel]] = {
    "llama": _make("LlamaForCausalLM", "LlamaConfig", tie_word_embeddings=True),
    "mistral": _make("MistralForCausalLM", "MistralConfig", sliding_window=16),
    "qwen2": _make("Qwen2ForCausalLM", "Qwen2Config", use_sliding_window=True, sliding_window=8, max_window_layers=3),
    "qwen3": _make("Qwen3ForCausalLM", "Qwen3Config", head_dim=8),
    "phi3": _make("Phi3ForCausalLM", "Phi3Config"),
    "gemma2": _make("Gemma2ForCausalLM", "Gemma2Config", head_dim=8, sliding_window=8, query_pre_attn_scalar=8),
    "gemma3": _make(
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        head_dim=8,
        sliding_window=8,
        query_pre_attn_scalar=8,
        layer_types=_MIXED,
    ),
    "smollm3": _make("SmolLM3ForCausalLM", "SmolLM3Config", no_rope_layer_interval=3),
    "olmo2": _make("Olmo2ForCausalLM", "Olmo2Config"),
    "granite": _make("GraniteForCausalLM", "GraniteConfig", residual_multiplier=0.5, logits_scaling=2.0),
    "gpt_neox": _make("GPTNeoXForCausalLM", "GPTNeoXConfig", num_key_value_heads=...),
    "opt": _make(
        "OPTForCausalLM",
        "OPTConfig",
        num_key_value_heads=...,
        intermediate_size=...,
        initializer_range=...,
        ffn_dim=48,
        init_std=0.2,
        word_embed_proj_dim=32,
    ),
    "qwen3_moe": _make("Qwen3MoeForCausalLM", "Qwen3MoeConfig", **_MOE),
}

# Their own names for the sizes.
_NAMELESS = dict.fromkeys(
    ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "max_position_embeddings"), ...
)
_GPT = _NAMELESS | {"n_embd": 32, "n_head": 4, "n_positions": 256}
_FALCON = {"num_key_value_heads": ..., "intermediate_size": ...}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1, "mamba_chunk_size": 8}
_LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
# Families that call their blocks, or whose blocks return, in other ways. Not all of them can be saved without blocks.
OTHERS: dict[str, Callable[..., tf.PreTrainedModel]] = {
    "bamba": _make("BambaForCausalLM", "BambaConfig", attn_layer_indices=[1, 3], **_MAMBA),
    "bloom": _make(
        "BloomForCausalLM", "BloomConfig", n_head=4, **{n: v for n, v in _NAMELESS.items() if n != "hidden_size"}
    ),
    "codegen": _make("CodeGenForCausalLM", "CodeGenConfig", **_GPT, rotary_dim=4, n_ctx=256),
    "cohere2": _make("Cohere2ForCausalLM", "Cohere2Config", head_dim=8, sliding_window=8),
    "diffllama": _make("DiffLlamaForCausalLM", "DiffLlamaConfig"),
    "falcon": _make("FalconForCausalLM", "FalconConfig", **_FALCON),
    "falcon_alibi": _make("FalconForCausalLM", "FalconConfig", **_FALCON, alibi=True),
    "falcon_h1": _make("FalconH1ForCausalLM", "FalconH1Config", head_dim=8, mamba_d_ssm=64, **_MAMBA),
    "gemma4": _make(
        "Gemma4ForCausalLM",
        "Gemma4TextConfig",
        head_dim=8,
        global_head_dim=16,
        hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=VOCABULARY,
        sliding_window=8,
        layer_types=["full_attention", "sliding_attention", "sliding_attention", "full_attention"] * 4,
    ),
    "gpt2": _make("GPT2LMHeadModel", "GPT2Config", **_GPT),
    "gpt_oss": _make("GptOssForCausalLM", "GptOssConfig", head_dim=8, num_local_experts=4, sliding_window=8),
    "gptj": _make("GPTJForCausalLM", "GPTJConfig", **_GPT, rotary_dim=4),
    "granitemoe": _make("GraniteMoeForCausalLM", "GraniteMoeConfig", num_local_experts=4),
    "jamba": _make(
        "JambaForCausalLM",
        "JambaConfig",
        **_EXPERTS,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        mamba_d_state=4,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    "lfm2": _make(
        "Lfm2ForCausalLM",
        "Lfm2Config",
        layer_types=["conv", "conv", "full_attention"] * 4,
        block_auto_adjust_ff_dim=False,
    ),
    "mamba": _make("MambaForCausalLM", "MambaConfig", state_size=4),
    "mpt": _make("MptForCausalLM", "MptConfig", **_NAMELESS, d_model=32, n_heads=4, max_seq_len=256),
    "nemotron": _make("NemotronForCausalLM", "NemotronConfig"),
    "nemotron_h": _make(
        "NemotronHForCausalLM",
        "NemotronHConfig",
        head_dim=8,
        layers_block_type=["mamba", "attention", "mlp"] * 4,
        ssm_state_size=4,
        mamba_num_heads=8,
        mamba_head_dim=8,
        n_groups=1,
        chunk_size=8,
        use_mamba_kernels=False,
    ),
    "olmo_hybrid": _make(
        "OlmoHybridForCausalLM",
        "OlmoHybridConfig",
        layer_types=["linear_attention", "linear_attention", "full_attention"] * 4,
        **_LINEAR,
    ),
    "openai-gpt": _make("OpenAIGPTLMHeadModel", "OpenAIGPTConfig", **_GPT),
    "phi": _make("PhiForCausalLM", "PhiConfig"),
    "qwen2_moe": _make(
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        **_EXPERTS,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        output_router_logits=True,
    ),
    "qwen3_5": _make(
        "Qwen3_5ForCausalLM",
        "Qwen3_5TextConfig",
        head_dim=8,
        layer_types=["linear_attention", "linear_attention", "full_attention"] * 4,
        **_LINEAR,
    ),
    "qwen3_next": _make(
        "Qwen3NextForCausalLM", "Qwen3NextConfig", **_MOE, **_LINEAR, shared_expert_intermediate_size=16
    ),
    "rwkv": _make("RwkvForCausalLM", "RwkvConfig", attention_hidden_size=32, context_length=64),
    "stablelm": _make(
        "StableLmForCausalLM", "StableLmConfig", qk_layernorm=True, use_parallel_residual=True, num_key_value_heads=4
    ),
    "starcoder2": _make("Starcoder2ForCausalLM", "Starcoder2Config"),
    "xglm": _make("XGLMForCausalLM", "XGLMConfig", **_NAMELESS, d_model=32, ffn_dim=48, attention_heads=4),
}


def tiny_mamba(blocks: int = 2) -> tf.PreTrainedModel:
    """A model whose ``dt_proj`` is a linear that is never called as a module."""
    torch.manual_seed(0)
    return tf.MambaForCausalLM(
        tf.MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=blocks, state_size=4)
    ).eval()


def tiny_model(family: str, *, blocks: int = 6, seed: int = 0) -> tf.PreTrainedModel:
    """Build a random model of a family in evaluation mode; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = (FAMILIES | OTHERS)[family](blocks=blocks)
    return model.eval()


def unfuse_experts(model: tf.PreTrainedModel) -> None:
    """Give every expert of a Qwen3-MoE model its own linears, named as on disk, as the toolkit does."""
    for block in model.model.layers:
        fused = block.mlp.experts
        experts = torch.nn.ModuleList(torch.nn.Module() for _ in fused.gate_up_proj)
        for i, expert in enumerate(experts):
            gate, up = fused.gate_up_proj[i].chunk(2)
            for name, weight in (("gate_proj", gate), ("up_proj", up), ("down_proj", fused.down_proj[i])):
                linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
                linear.weight.data = weight.detach().clone()
                setattr(expert, name, linear)
        block.mlp.experts = experts


def tiny_tokenizer(path: Path) -> tf.PreTrainedTokenizerFast:
    """Save a word-level tokenizer (``w0`` … ``w123``, a chat template) under ``path`` and load it as users would."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106 - not a password
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=raw, **special)
    tokenizer.chat_template = (
        "{% for message in messages %}<s> {{ message['role'] }} {{ message['content'] }} </s> {% endfor %}"
    )
    tokenizer.save_pretrained(path)
    return tf.AutoTokenizer.from_pretrained(path)


def linear_inputs(decoder, windows):
    """What enters every linear in a plain forward of the whole model, positions x features."""
    found = {}
    hooks = [
        linear.register_forward_pre_hook(lambda _, args, name=name: found.update({name: args[0].flatten(0, -2)}))
        for index in range(len(decoder.blocks))
        for name, linear in decoder.linears(index).items()
    ]
    with torch.no_grad():
        decoder.model(input_ids=windows, use_cache=False)
    for hook in hooks:
        hook.remove()
    return found
