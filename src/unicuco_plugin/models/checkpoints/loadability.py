"""What Transformers makes of tensors: which are missing, which nobody asks for, said without reading one."""

import copy
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from unicuco_plugin.errors import clip
from unicuco_plugin.models.tensors.storage import kept_tensors

__all__ = [
    "build_sketch",
    "disk_state",
    "find_unfit",
    "has_own_code",
    "is_compact",
    "is_passed_over",
    "list_unfit",
    "quiet_loading",
]

# Characters of a tensor's name in a message.
_LONGEST = 70


def build_sketch(kind: Any, config: PreTrainedConfig) -> PreTrainedModel:  # noqa: ANN401 - Transformers' classes are untyped
    """Build a class from a configuration without weights, on the meta device.

    Args:
        kind: A model class of Transformers, or derived from one.
        config: It is not changed.
    """
    with torch.device("meta"):
        return kind._from_config(copy.deepcopy(config))


def disk_state(model: PreTrainedModel, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Tensors under the names, and in the shapes, that ``save_pretrained`` writes; on the meta device.

    Args:
        model: Whose rules hold.
        state: Tensors by their names in memory; those of the model by default.
    """
    with kept_tensors():
        given = model.state_dict(keep_vars=True) if state is None else state
        tensors = {name: tensor.detach().to("meta") for name, tensor in given.items()}
    return dict(revert_weight_conversion(model, tensors))


def find_unfit(kind: Any, config: PreTrainedConfig, state: Mapping[str, Tensor]) -> list[str]:  # noqa: ANN401
    """Let ``from_pretrained`` load tensors of the meta device, and tell which do not fit.

    Its own rules hold: conversions of names, tied weights, and the patterns of what a class passes over.

    Args:
        kind: The model's class.
        config: Its configuration, which is not changed.
        state: Tensors by their names on disk.

    Returns:
        A few words for each tensor that is missing, unexpected, or of another shape.

    Raises:
        Exception: Whatever Transformers raises, for instance where the configuration builds nothing.
    """
    with quiet_loading():
        _, report = kind.from_pretrained(
            None,
            config=copy.deepcopy(config),
            state_dict=dict(state),
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    return list_unfit(report)


def list_unfit(report: Mapping[str, Any]) -> list[str]:
    """The same, from what ``output_loading_info=True`` gave."""
    found = [f"{_short(name)} is missing" for name in sorted(report["missing_keys"])]
    found += [f"{_short(name)} is unexpected" for name in sorted(report["unexpected_keys"])]
    found += [f"{_short(entry[0])} has another shape" for entry in sorted(report["mismatched_keys"])]
    return [*found, *(clip(str(entry), _LONGEST) for entry in report.get("error_msgs") or ())]


def has_own_code(model: PreTrainedModel) -> bool:
    """Whether a model's class came with its checkpoint and was run by ``trust_remote_code``."""
    return type(model).__module__.partition(".")[0] == "transformers_modules"


def is_compact(model: PreTrainedModel) -> bool:
    """Whether a model's class builds blocks in sizes of their own, and writes its code beside a checkpoint."""
    return hasattr(model, "write_code")


def is_passed_over(model: PreTrainedModel, name: str) -> bool:
    """Whether Transformers loads this class without a word from files with such a tensor, as those of a draft head."""
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    return any(re.search(pattern, name) for pattern in patterns)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep Transformers' table of what did not fit off the terminal: who calls says it in one line."""
    logger = logging.getLogger("transformers.modeling_utils")

    def grave(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger.addFilter(grave)  # its level also switches checks on
    try:
        yield
    finally:
        logger.removeFilter(grave)


def _short(name: str) -> str:
    return clip(name, _LONGEST, middle=True)
