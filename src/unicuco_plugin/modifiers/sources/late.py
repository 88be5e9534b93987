"""A source that answers when the model is there, asked from within the toolkit's lifecycle."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from llmcompressor.core import State

from unicuco_plugin.errors import RecipeError
from unicuco_plugin.models.tensors.storage import on_accelerator
from unicuco_plugin.modifiers.sources.source import LateSource, PeerSource
from unicuco_plugin.modifiers.toolkit.ranks import is_first, whole_windows
from unicuco_plugin.progress import Progress
from unicuco_plugin.request import Request
from unicuco_plugin.strategy import Strategy

__all__ = ["ask_late"]


def ask_late(
    late: LateSource,
    state: State,
    request: Mapping[str, Any] | None,
    progress: Callable[[Progress], None],
) -> Strategy:
    """Let a late source answer for the dense model, from the toolkit's own calibration data.

    Args:
        late: A peer, or a file of EvoPress.
        state: The toolkit's, when it initialises.
        request: What is asked, as a recipe says it.
        progress: Called often.

    Raises:
        RecipeError: If it reads text, and the toolkit has none.
        UnsupportedModelError, RequestError, CalibrationError: See the source.
    """
    if late.needs_text and state.data.calib is None:
        raise RecipeError(f"{late!r} reads calibration text, got none; give oneshot a dataset")
    if isinstance(late, PeerSource) and late.journal is not None and not is_first():
        late = late.model_copy(update={"journal": None})  # a file for one; what the first finds is everybody's
    windows = whole_windows(state.data.calib) if late.needs_text else torch.zeros(0, 1, dtype=torch.long)
    with on_accelerator(state.model):
        return late.answer(state.model, windows, None if request is None else Request.of(**request), progress)
