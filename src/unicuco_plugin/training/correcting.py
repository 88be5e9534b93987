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


def check_compensation(name: str | None, space: str, *, biased: bool = True) -> None:
    """Refuse a compensation of what is not removed.

    Args:
        name: Of the compensation.
        space: That is to be searched.
        biased: Whether what loses parts gets a bias.

    Raises:
        UnknownNameError: If no plugin provides it.
        StrategyError: If no profile could name it, it is solved for one model and not for the many of a search,
            strategies of the space do more than drop blocks or parts of them, or it changes biases, and nothing gets
            one.
    """
    if name is not None and re.fullmatch(r"[\w.-]{1,100}", name) is None:
        raise StrategyError(f"compensation must be named by letters, digits, '.', '_' and '-', got {quoted(name)}")
    if name is not None and make_compensation(name).sequential:
        raise StrategyError(
            f"compensation {name} is solved anew behind all that one model has lost, and a search measures hundreds: "
            f"leave it out here, or take ridge, and prune with --compensation {name}"
        )
    if corrects(name) and not traits_of(space).corrected:
        raise StrategyError(
            f"compensation {name} corrects what leaves, in the spaces 'depth', 'sublayer' and 'structured'; there is "
            f"none yet for {space!r}: leave it out"
        )
    if name is not None and traits_of(space).cuts and not biased and make_compensation(name).biased:
        raise StrategyError(f"compensation {name} changes biases, and no module gets one: take ridge, or leave it out")


def find_corrections(
    name: str | None, decoder: Decoder, windows: Tensor, batch_windows: int = 16, *, space: str = "depth"
) -> Corrections | None:
    """What candidates are corrected with; None where nothing is.

    Args:
        name: Of the compensation.
        decoder: The dense model.
        windows: ``m x L`` token ids to solve from.
        batch_windows: Windows that pass a block together.
        space: Of the candidates.

    Raises:
        CalibrationError: If there are too few windows.
        UnsupportedModelError: If corrections cannot be folded into the weights of one of its blocks.
    """
    if name is None or not corrects(name):
        return None
    traits = traits_of(space)
    runner = (HalfRunner if traits.modular else BlockRunner)(decoder, windows.shape[1])
    dense = DenseStates(runner, windows, batch=batch_windows, keep=True)
    corrections = Corrections(dense, name, make_compensation(name))
    corrections.check(range(len(step_names(runner))), (), room=traits.cuts)
    return corrections


def correcting(corrections: Corrections | None) -> dict[str, Any]:
    """What tells measurements with corrections from others, as plain JSON data; empty without any."""
    if corrections is None:
        return {}
    tokens, windows = corrections.dense.windows.numel(), calibration_hash(corrections.dense.windows)
    return {"compensation": {"name": corrections.name, "windows": windows, "tokens": tokens}}
