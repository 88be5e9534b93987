"""What a finished search leaves."""

from collections.abc import Sequence
from dataclasses import dataclass

from unicuco_plugin.journal.journal import Measurement
from unicuco_plugin.policy.posterior import Posterior
from unicuco_plugin.policy.scalarization import Scaling
from unicuco_plugin.policy.stratnet import StratNet

__all__ = ["TrainingResult"]


@dataclass(frozen=True)
class TrainingResult:
    """What a profile is made from.

    Attributes:
        net: StratNet.
        posterior: The surrogate of the ranking fidelity.
        scaling: Of the objectives (size, quality), frozen.
        ranked, reranked, confirmed: Every measurement, by fidelity; those of groups of units among the ranked ones.
        epochs: Rounds that were run, over units.
        interrupted: Whether Ctrl-C ended it early; then some of the front is predicted, not confirmed.
    """

    net: StratNet
    posterior: Posterior
    scaling: Scaling
    ranked: Sequence[Measurement]
    reranked: Sequence[Measurement]
    confirmed: Sequence[Measurement]
    epochs: int
    interrupted: bool
