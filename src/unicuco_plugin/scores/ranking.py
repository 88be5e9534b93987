r"""Which head groups and neurons of a module matter least: rankings inside one attention or MLP.

====== ===== ==========================================================================
symbol shape meaning
====== ===== ==========================================================================
W      r x c weight of the output projection
X      t x c its inputs at ``t`` positions
s      c     score of an input channel; a part's score is the sum of its channels'
====== ===== ==========================================================================
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from unicuco_plugin.errors import CalibrationError

if TYPE_CHECKING:  # plugins are listed without waiting for Transformers
    from unicuco_plugin.models.parts.channels import ChannelStatistics

__all__ = ["RANKINGS", "Ranking", "fluctuation", "magnitude", "taylor", "wanda"]


@dataclass(frozen=True)
class Ranking:
    """A ranking of the input channels of an output projection.

    Attributes:
        score: Maps ``W`` (``r x c``, float32, CPU) and the statistics of its inputs to ``c`` scores; lowest go first.
        effects: Whether it reads the statistics' ``effect``, which costs a backward pass.
    """

    score: Callable[[Tensor, "ChannelStatistics"], Tensor]
    effects: bool = False


def fluctuation(W: Tensor, statistics: "ChannelStatistics") -> Tensor:
    """``Var_t(X_j) ||W_:j||^2``: the loss from removing a channel whose mean is put back as a bias.

    Source:
        FLAP (An et al. 2024), weighted input feature variance.
    """
    return statistics.variance * W.square().sum(0)


def magnitude(W: Tensor, statistics: "ChannelStatistics") -> Tensor:
    """``||W_:j||^2``, whatever the text."""
    return W.square().sum(0)


def wanda(W: Tensor, statistics: "ChannelStatistics") -> Tensor:
    """``sum_i |W_ij| ||X_j||``, Wanda's score (Sun et al. 2024) added up over a column."""
    return W.abs().sum(0) * statistics.norm


def taylor(W: Tensor, statistics: "ChannelStatistics") -> Tensor:
    """``|sum_t X_tj dL/dX_tj|``, the first-order change of the loss without a channel.

    Raises:
        CalibrationError: If it was not measured.
    """
    if statistics.effect is None:
        raise CalibrationError("the ranking taylor needs measured effects of channels, got none")
    return statistics.effect


RANKINGS = {
    "flap": Ranking(fluctuation),
    "magnitude": Ranking(magnitude),
    "taylor": Ranking(taylor, effects=True),
    "wanda": Ranking(wanda),
}
