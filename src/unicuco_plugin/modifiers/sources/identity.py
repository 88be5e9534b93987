"""Whether the model that the toolkit holds is the one a strategy was made for."""

from typing import Any

from llmcompressor.modeling.offset_norm import NormCalibrationModule
from torch import nn

from unicuco_plugin.models.blocks.fingerprint import Fingerprint, config_fingerprint, fingerprint
from unicuco_plugin.models.checkpoints.loadability import has_own_code
from unicuco_plugin.models.loading import display_name, load_model
from unicuco_plugin.pruning import check_model
from unicuco_plugin.strategy import ModelReference, Strategy

__all__ = ["carry_over", "check_identity", "identify"]


def check_identity(model: nn.Module, reference: ModelReference, *, accept_other_weights: bool) -> bool:
    """Compare as :func:`unicuco_plugin.pruning.check_model` does, also inside the toolkit's lifecycle.

    Before a modifier sees the model, the toolkit rounds the norms of Gemma and others (``1 + weight``). Weights so
    changed have no fingerprint; the checkpoint that the model was loaded from has.

    Returns:
        True where the weights differ and that was accepted.

    Raises:
        ModelMismatchError: If it is another model, or other weights that were not accepted.
        UnsupportedModelError: If the toolkit has changed the norms and the checkpoint cannot be read.
    """
    return check_model(model, reference, accept_other_weights=accept_other_weights, actual=_fingerprint(model))


def identify(model: Any) -> ModelReference:  # noqa: ANN401 - a Transformers model
    """Name and fingerprint of the dense model that the toolkit holds.

    Raises:
        UnsupportedModelError: As :func:`check_identity`.
    """
    return ModelReference(name=display_name(str(model.name_or_path)), fingerprint=str(_fingerprint(model)))


def _fingerprint(model: nn.Module) -> Fingerprint:
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
