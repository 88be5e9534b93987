"""Who reads a configuration and builds a model: for the forms that we write our own code, never that in a folder.

Our classes are registered with nobody: other makers have models of the same kind, which Transformers would then build
by ours.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from unicuco_plugin.models.parts.configuration_deci import DeciLMConfig
from unicuco_plugin.models.parts.modeling_compact import FILE, compact_class
from unicuco_plugin.models.parts.modeling_deci import AUTO_MAP, DeciLMForCausalLM

__all__ = ["config_reader", "model_builder"]


def config_reader(where: Mapping[str, Any], hub: Mapping[str, Any]) -> Any:  # noqa: ANN401 - Transformers' are untyped
    """Who reads the configuration of a checkpoint.

    Args:
        where: Where it lies, as ``from_pretrained`` is told.
        hub: The hub's options.
    """
    given, _ = PreTrainedConfig.get_config_dict(**where, **hub)
    ours = _code(given.get("auto_map"), "AutoConfig") == AUTO_MAP["AutoConfig"]
    return DeciLMConfig if ours else AutoConfig


def model_builder(config: PreTrainedConfig) -> Any:  # noqa: ANN401 - Transformers' classes are untyped
    """Who builds the model."""
    if isinstance(config, DeciLMConfig):
        return DeciLMForCausalLM
    code = _code(getattr(config, "auto_map", None), "AutoModelForCausalLM")
    if not code.startswith(f"{Path(FILE).stem}."):
        return AutoModelForCausalLM
    return compact_class(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])


def _code(auto_map: Any, kind: str) -> str:  # noqa: ANN401 - a stranger's file
    """Which class a checkpoint names, less the hub's name."""
    return str(auto_map.get(kind, "")).rpartition("--")[2] if isinstance(auto_map, Mapping) else ""
