r"""How confirmed divergences differ from what the ranking windows say, budget by budget.

A profile ranks strategies on some windows and confirms the best of each budget on others. Other windows are harder or
easier, and how much so depends on how much is removed: few per cent at one budget, a tenth at the next. What is
predicted for a strategy is therefore moved by the differences seen at budgets near it,

    shift(s) = sum_i w_i d_i / sum_i w_i,    w_i = exp(-(s - s_i)^2 / 2 h^2)

with ``d_i`` the difference of the logarithms of the confirmed strategy at sparsity ``s_i`` and ``h`` = 0.05
(Nadaraya-Watson). Its deviation is the same mean of the squares of what each ``d_i`` is off by where the others alone
say the shift there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

__all__ = ["Shift"]

# Sparsity over which neighbours count: a step of the grid of budgets. A choice; benchmarks/shift.py measures how far
# off the shift is with it.
_WIDTH = 0.05
# Fewer differences say nothing about a neighbourhood: each is judged by at least two others.
_LEAST = 3


@dataclass(frozen=True)
class Shift:
    """Differences of logarithms, by sparsity.

    Attributes:
        sparsity: Of the confirmed strategies, ``n``.
        difference: Logarithm of the confirmed divergence less what the ranking windows say, ``n``.
        off: How far each is from what the others say there, ``n``.
    """

    sparsity: Tensor
    difference: Tensor
    off: Tensor

    @classmethod
    def of(cls, sparsity: Sequence[float], difference: Sequence[float]) -> Self | None:
        """Learn from ``n`` confirmed strategies; None where there are too few."""
        if len(sparsity) < _LEAST:
            return None
        s, d = (torch.tensor(values, dtype=torch.float64) for values in (sparsity, difference))
        others = _weights(s, s).fill_diagonal_(-torch.inf).softmax(-1)
        return cls(s, d, d - others @ d)

    def at(self, sparsity: float) -> tuple[float, float]:
        """Mean and standard deviation of the difference at a sparsity."""
        weights = _weights(torch.tensor([sparsity], dtype=torch.float64), self.sparsity).softmax(-1)[0]
        return (weights @ self.difference).item(), (weights @ self.off**2).sqrt().item()


def _weights(at: Tensor, of: Tensor) -> Tensor:
    """Logarithms: far from everything the nearest still counts."""
    return -0.5 * ((at[:, None] - of) / _WIDTH) ** 2
