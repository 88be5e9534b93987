"""Which models can be pruned right, decided before anything expensive."""

import re
from collections.abc import Mapping

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)

from unicuco_plugin.errors import UnsupportedModelError, quoted
from unicuco_plugin.models.tensors.storage import kept_tensors

__all__ = ["check_config", "check_model"]

# Families for which a dropped or reloaded model was seen to differ from the bypassed one.
REFUSED: Mapping[str, str] = {
    "cpmant": "Transformers lets its tokens see those behind them, so it predicts none",
    "gemma3n": "its blocks share key-value caches and per-layer embeddings",
    "gemma3n_text": "its blocks share key-value caches and per-layer embeddings",
    "gpt_neo": "its attention pattern is regenerated from attention_types on reload",
    "llama4_text": "llm-compressor takes its experts apart in the multimodal model alone, and fails on this one",
    "minimax_m3_vl_text": "llm-compressor takes its experts apart and then cannot run them",
    "trocr": "they read what an encoder of pictures writes",
    "xlnet": "Transformers lets its tokens see those behind them, so it predicts none",
    "zaya": "they hand each other more than states",
}

# Settings that tie a block to its place or to other blocks: field → the values under which it does not.
_HARMLESS: Mapping[str, tuple[object, ...]] = {
    "num_kv_shared_layers": (None, 0),
    "cla_share_factor": (None, 1),
    "scale_attn_by_inverse_layer_idx": (None, False),
    "per_layer_config": (None, {}),
}

# Parts of a configuration that read something else than text.
_OTHER_SENSES = {"vision_config", "audio_config", "audio_encoder_config"}


def check_config(config: PreTrainedConfig, name: str | None = None) -> None:
    """Refuse what a configuration alone already shows to be unsupported.

    Args:
        config: The configuration of the whole model.
        name: What to call the model in messages; its type by default.

    Raises:
        UnsupportedModelError: For encoders, encoder-decoders, quantised models, multimodal wrappers, refused families,
            and blocks that share state; the message is one line and starts with the name.
    """
    label = name or config.model_type or type(config).__name__
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{label}: encoder-decoder models are not supported, only decoder-only ones")
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModelError(f"{label}: the model is already quantised; prune the full-precision model instead")
    if config.model_type in REFUSED:
        raise UnsupportedModelError(
            f"{label}: blocks of {config.model_type} cannot be dropped: {REFUSED[config.model_type]}"
        )
    if _is_encoder(config):
        raise UnsupportedModelError(
            f"{label}: {config.model_type} is an encoder, which reads text and writes none; only decoder-only language "
            "models can be pruned"
        )
    text = config.get_text_config(decoder=True)
    if text is not config or _OTHER_SENSES & getattr(config, "sub_configs", {}).keys():
        raise UnsupportedModelError(
            f"{label}: {config.model_type} is a multimodal wrapper; give its text model saved as a causal language "
            "model of its own"
        )
    if not isinstance(getattr(text, "num_hidden_layers", None), int):
        raise UnsupportedModelError(f"{label}: its configuration has no num_hidden_layers")
    for field, harmless in _HARMLESS.items():
        value = vars(text).get(field)
        if value not in harmless:
            raise UnsupportedModelError(
                f"{label}: {field} = {quoted(value)} ties its blocks together; none can be dropped"
            )
    # DeepSeek's own code makes every n-th block sparse; a dropped block would shift that count.
    frequency = vars(text).get("moe_layer_freq", 1)
    if isinstance(frequency, int) and frequency != 1:
        raise UnsupportedModelError(f"{label}: moe_layer_freq must be 1 for blocks to be dropped, got {frequency}")


def _is_encoder(config: PreTrainedConfig) -> bool:
    """Whether the family fills masks, or reads for another one; some can be told to be decoders, or causal (XLM)."""
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING or config.model_type == "bert-generation"
    told = getattr(config, "is_decoder", getattr(config, "causal", True))
    return masked and not (type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and told)


def check_model(model: PreTrainedModel, blocks_name: str, count: int) -> None:
    """Refuse what can be loaded and not pruned: quantised weights, blocks of different sizes, shared parameters.

    Args:
        model: The whole model.
        blocks_name: Full module name of the list of blocks.
        count: How many blocks there are.

    Raises:
        UnsupportedModelError: If it was loaded quantised, or a parameter of a block lives elsewhere too.
    """
    label = type(model).__name__
    if getattr(model, "hf_quantizer", None) is not None or getattr(model, "is_quantized", False):
        raise UnsupportedModelError(f"{label}: the model is already quantised; prune the full-precision model instead")
    # A family may give blocks sizes of their own (Gemma 4); others have them since they were pruned.
    if getattr(model.config, "is_heterogeneous", False) and not type(model).__module__.startswith(
        "transformers.models."
    ):
        raise UnsupportedModelError(
            f"{label}: its blocks were pruned to different sizes already; prune the dense model"
        )
    inside = re.compile(rf"{re.escape(blocks_name)}\.(\d+)\.")
    owner: dict[int, tuple[str, int]] = {}
    with kept_tensors():
        named = list(model.named_parameters(remove_duplicate=False))
    for name, parameter in named:
        match = inside.match(name)
        place = int(match[1]) if match else count
        other, other_place = owner.setdefault(id(parameter), (name, place))
        if place != other_place:
            raise UnsupportedModelError(f"{label}: {name} is the same parameter as {other}; its blocks share weights")
