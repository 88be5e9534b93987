"""Members of Transformers' mapping of causal language models that are no decoder-only ones, and why."""

from collections.abc import Mapping

__all__ = ["OUTSIDE"]

_ENCODERS = """
bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert reformer rembert roberta
roberta-prelayernorm roc_bert roformer xlm xlm-roberta xlm-roberta-xl xlnet xmod
"""
_ENCODER_DECODERS = """
bart bigbird_pegasus blenderbot blenderbot-small marian mbart mvp pegasus plbart prophetnet trocr whisper
"""
_WRAPPERS = """
emu3 fuyu gemma3 gemma3n gemma4 gemma4_unified git got_ocr2 llama4 mllama moshi musicgen musicgen_melody phi4_multimodal
qwen3_5 qwen3_5_moe qwen4_exp
"""
_DRAFTS = "gemma4_assistant gemma4_unified_assistant"

OUTSIDE: Mapping[str, str] = {
    **dict.fromkeys(_ENCODERS.split(), "an encoder, or one unless it is told otherwise"),
    **dict.fromkeys(_ENCODER_DECODERS.split(), "the decoder of an encoder-decoder"),
    **dict.fromkeys(
        _WRAPPERS.split(), "a wrapper of several kinds of input or output; its text model, where it has one, is here"
    ),
    **dict.fromkeys(_DRAFTS.split(), "drafts for another model, from whose states it reads"),
    "blt": "works on patches of bytes, between transformers of its own",
}
