"""Which models can be pruned right, decided before anything expensive."""

import re

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)

from unicuco_plugin.errors import UnsupportedModelError, quoted
from unicuco_plugin.models.families.known import family_of
from unicuco_plugin.models.tensors.storage import kept_tensors

__all__ = ["check_config", "check_model"]


def check_config(config: PreTrainedConfig, name: str | None = None) -> None:
    """Refuse what a configuration alone already shows to be unsupported.

    Args:
        config: The configuration of the whole model.
        name: What to call the model in messages; its type by default.

    Raises:
        UnsupportedModelError: For encoders, encoder-decoders, quantised models, multimodal wrappers, refused families,
            and blocks that share state; the message is one line and starts with the name.
    """
    label, family = name or config.model_type or type(config).__name__, family_of(config)
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{label}: encoder-decoder models are not supported, only decoder-only ones")
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModelError(f"{label}: the model is already quantised; prune the full-precision model instead")
    if family.refused:
        raise UnsupportedModelError(
            f"{label}: blocks of {config.model_type} cannot be dropped: {family.refused}; take a model of another "
            "family"
        )
    if _is_encoder(config):
        raise UnsupportedModelError(
            f"{label}: {config.model_type} is an encoder, which reads text and writes none; only decoder-only language "
            "models can be pruned"
        )
    text = config.get_text_config(decoder=True)
    if text is not config or family.senses & getattr(config, "sub_configs", {}).keys():
        raise UnsupportedModelError(
            f"{label}: {config.model_type} is a multimodal wrapper; give its text model saved as a causal language "
            "model of its own"
        )
    if not isinstance(getattr(text, "num_hidden_layers", None), int):
        raise UnsupportedModelError(
            f"{label}: its configuration has no num_hidden_layers, by which blocks are found; mend config.json"
        )
    for field, harmless in family.ties.items():
        value = vars(text).get(field)
        if value not in harmless:
            raise UnsupportedModelError(
                f"{label}: {field} = {quoted(value)} ties its blocks together, so that none can be dropped; take a "
                "model without that"
            )
    for field in family.frequencies:
        frequency = vars(text).get(field, 1)
        if isinstance(frequency, int) and frequency != 1:
            raise UnsupportedModelError(
                f"{label}: {field} must be 1 for blocks to be dropped, got {frequency}; take a model without that"
            )


def _is_encoder(config: PreTrainedConfig) -> bool:
    """Whether the family fills masks, or reads for another one; some can be told to be decoders, or causal (XLM)."""
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING or family_of(config).encoder
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
            raise UnsupportedModelError(
                f"{label}: {name} is the same parameter as {other}, so its blocks cannot be pruned one by one; take a "
                "model of another family"
            )
