r"""What all ranking windows together say about a strategy: the surrogate, and a second set for each budget's best.

====== ===== =======================================================================================
symbol shape meaning
====== ===== =======================================================================================
mean   p     logarithm of the divergence by the surrogate, on the first lot of windows
std    p     its standard deviation
again  p     logarithm of the divergence on the second lot; NaN where it was not measured
shift  scalar how much higher the second lot is on average
noise  scalar standard deviation of ``again - shift - mean``: how far one lot of windows misleads
====== ===== =======================================================================================
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from unicuco_plugin.journal.journal import Measurement
from unicuco_plugin.objectives.floor import LEAST
from unicuco_plugin.policy.posterior import Posterior
from unicuco_plugin.spaces.space import Named

__all__ = ["Evidence", "compare"]


@dataclass(frozen=True)
class Evidence:
    """How the second lot of windows compares with the surrogate of the first.

    Attributes:
        shift: Mean difference of the logarithms.
        noise: Standard deviation of the difference.
    """

    shift: float = 0.0
    noise: float = 0.0

    @classmethod
    def from_pairs(cls, mean: Tensor, again: Tensor) -> Self:
        """Compare predictions with second measurements, both logarithms of one length."""
        if len(again) < 2:
            return cls()
        difference = again - mean
        return cls(difference.mean().item(), difference.std().item())

    def weigh(self, mean: Tensor, std: Tensor, again: Tensor) -> tuple[Tensor, Tensor]:
        """Combine both lots, which count alike where both were measured.

        Returns:
            Mean and standard deviation of the logarithm, ``p`` each, on the scale of the first lot. The deviation
            counts the windows' own noise, so that what only one lot has seen must promise more.
        """
        both = ~again.isnan()
        combined = torch.where(both, 0.5 * (mean + again - self.shift), mean)
        share = torch.where(both, 0.5, 1.0)
        return combined, (std**2 + share * self.noise**2).sqrt()


def compare(space: Named, posterior: Posterior, rows: Sequence[Measurement]) -> Evidence:
    """Compare measurements on other windows with what the surrogate predicts for them."""
    if not rows:
        return Evidence()
    x = torch.stack([space.parse(row.key) for row in rows])
    again = torch.tensor([row.value for row in rows], dtype=torch.float64).log()
    # What a raw target cannot predict says nothing of how windows differ.
    again = torch.where(again <= math.log(LEAST), again.clamp_min(posterior.least), again)
    return Evidence.from_pairs(posterior.log_predict(x)[0], again)
