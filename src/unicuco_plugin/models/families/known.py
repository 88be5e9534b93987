"""The families that differ from all others, by ``model_type``: one entry each.

A family that is not here is described by the defaults of :class:`.Family`. ``tests/models/families/test_contract.py``
has a line for every entry, and fails without.
"""

from collections.abc import Mapping

from transformers import PreTrainedConfig

from unicuco_plugin.models.families.family import Family

__all__ = ["FAMILIES", "USUAL", "family_of"]

USUAL = Family()

_SHARED = "its blocks share key-value caches and per-layer embeddings"
_LOOKS_AHEAD = "Transformers lets its tokens see those behind them, so it predicts none"

FAMILIES: Mapping[str, Family] = {
    "bert-generation": Family(encoder=True),
    # Positions are sines in a tensor (CodeGen, GPT-J) or biases (MPT).
    "codegen": Family(positions="n_positions"),
    "gptj": Family(positions="n_positions"),
    "mpt": Family(positions="max_seq_len"),
    # A dropped or reloaded model was seen to differ from the bypassed one.
    "cpmant": Family(refused=_LOOKS_AHEAD),
    "gemma3n": Family(refused=_SHARED),
    "gemma3n_text": Family(refused=_SHARED),
    "gpt_neo": Family(refused="its attention pattern is regenerated from attention_types on reload"),
    "llama": Family(llama_like=True),
    "mistral": Family(llama_like=True),
    "qwen2": Family(llama_like=True),
    "nemotron-nas": Family(refused="they have sizes of their own, as pruned ones have; prune the dense model"),
    "llama4_text": Family(
        refused="llm-compressor takes its experts apart in the multimodal model alone, and fails on this one"
    ),
    "minimax_m3_vl_text": Family(refused="llm-compressor takes its experts apart and then cannot run them"),
    "trocr": Family(refused="they read what an encoder of pictures writes"),
    "xlnet": Family(refused=_LOOKS_AHEAD),
    "zaya": Family(refused="they hand each other more than states"),
}


def family_of(config: PreTrainedConfig) -> Family:
    """The description of a configuration's family."""
    return FAMILIES.get(config.model_type, USUAL)
