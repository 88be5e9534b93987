"""Which compensation a run measures its candidates with, and how its journal and profile say so."""

import re
from typing import Any

from torch import Tensor

from unicuco_plugin.compensation.corrections import Corrections
from unicuco_plugin.compensation.dense_states import DenseStates
from unicuco_plugin.errors import StrategyError, quoted
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.halves import HalfRunner, step_names
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.plugins.manager import corrects, make_compensation
from unicuco_plugin.texts.calibration import calibration_hash
from unicuco_plugin.traits import traits_of

__all__ = ["check_compensation", "correcting", "find_corrections"]


def check_compensation(name: str | None, space: str) -> None:
    """Refuse a compensation of what is not removed.

    Raises:
        UnknownNameError: If no plugin provides it.
        StrategyError: If no profile could name it, or strategies of the space do more than drop blocks.
    """
    if name is not None and re.fullmatch(r"[\w.-]{1,100}", name) is None:
        raise StrategyError(f"compensation must be named by letters, digits, '.', '_' and '-', got {quoted(name)}")
    if corrects(name) and not traits_of(space).corrected:
        raise StrategyError(
            f"compensation {name} corrects dropped blocks and halves, of the spaces 'depth' and 'sublayer'; there is "
            f"none yet for {space!r}: leave it out"
        )


def find_corrections(
    name: str | None, decoder: Decoder, windows: Tensor, batch_windows: int = 16, *, halves: bool = False
) -> Corrections | None:
    """What candidates are corrected with; None where nothing is.

    Args:
        name: Of the compensation.
        decoder: The dense model.
        windows: ``m x L`` token ids to solve from.
        batch_windows: Windows that pass a block together.
        halves: Whether candidates lack halves of blocks.

    Raises:
        CalibrationError: If there are too few windows.
        UnsupportedModelError: If corrections cannot be folded into the weights of one of its blocks.
    """
    if name is None or not corrects(name):
        return None
    runner = (HalfRunner if halves else BlockRunner)(decoder, windows.shape[1])
    dense = DenseStates(runner, windows, batch=batch_windows, keep=True)
    corrections = Corrections(dense, name, make_compensation(name))
    corrections.check(range(len(step_names(runner))), ())
    return corrections


def correcting(corrections: Corrections | None) -> dict[str, Any]:
    """What tells measurements with corrections from others, as plain JSON data; empty without any."""
    if corrections is None:
        return {}
    tokens, windows = corrections.dense.windows.numel(), calibration_hash(corrections.dense.windows)
    return {"compensation": {"name": corrections.name, "windows": windows, "tokens": tokens}}
