"""Which model the toolkit holds."""

from typing import Any

from llmcompressor.modeling.offset_norm import NormCalibrationModule

from unicuco_plugin.models.blocks.fingerprint import Fingerprint, config_fingerprint, fingerprint
from unicuco_plugin.models.checkpoints.loadability import has_own_code
from unicuco_plugin.models.loading import display_name, load_model
from unicuco_plugin.strategy import ModelReference, Strategy

__all__ = ["carry_over", "find_fingerprint", "identify"]


def identify(model: Any) -> ModelReference:  # noqa: ANN401 - a Transformers model
    """Name and fingerprint of the dense model that the toolkit holds.

    Raises:
        UnsupportedModelError: As :func:`find_fingerprint`.
    """
    return ModelReference(name=display_name(str(model.name_or_path)), fingerprint=str(find_fingerprint(model)))


def find_fingerprint(model: Any) -> Fingerprint:  # noqa: ANN401 - a Transformers model
    """Hash the dense model, also inside the toolkit's lifecycle.

    Before a modifier sees the model, the toolkit rounds the norms of Gemma and others (``1 + weight``). Weights so
    changed have no fingerprint; the checkpoint that the model was loaded from has.

    Raises:
        UnsupportedModelError: If the toolkit has changed the norms and the checkpoint cannot be read.
    """
    if any(isinstance(module, NormCalibrationModule) for module in model.modules()):
        # Code that is running already was trusted when the model was loaded.
        trusted = has_own_code(model)
        saved = fingerprint(load_model(str(model.name_or_path), offload="auto", trust_remote_code=trusted))
        if saved.structure == config_fingerprint(model.config):
            return saved
        # Pruned in memory since it was loaded: its weights are nobody's, which only accept_other_weights lets pass.
    return fingerprint(model)


def carry_over(strategy: Strategy) -> Strategy:
    """The same strategy on other weights: its divergence is then no measurement."""
    if strategy.divergence is None:
        return strategy
    carried = strategy.divergence.model_copy(update={"measured": False, "carried_over": True})
    return strategy.model_copy(update={"divergence": carried})
