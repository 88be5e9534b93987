r"""The cheapest way to spend a budget where every unit has a list of choices and their costs add up.

====== ===== =====================================================================
symbol shape meaning
====== ===== =====================================================================
costs  d x l what each choice of a unit costs; infinite where it has no such choice
saved  d x l what it saves, whole numbers
f      S     least cost of the units so far at which at least so many quanta are saved
====== ===== =====================================================================

Source:
    The multiple-choice knapsack by dynamic programming (Kellerer, Pferschy and Pisinger 2004, chapter 11).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["cheapest"]

# Totals that are told apart. SmolLM2's units of bits make 49 000, and take a fifth of a second; where there are more,
# savings are counted in coarser quanta, rounded down, so that a budget is still met.
_MOST = 2**17


def cheapest(costs: Tensor, saved: Tensor, targets: Sequence[int]) -> Tensor:
    """The cheapest choices that save at least a target, for each of several.

    Args:
        costs: ``d x l``, float64, at least 0.
        saved: ``d x l``, int64, at least 0.
        targets: ``t`` whole numbers, at most what can be saved.

    Returns:
        ``t x d`` places in the lists. Exact where savings have at most 131 072 different sums.
    """
    possible = costs.isfinite()
    saved = torch.where(possible, saved, 0)
    total = int(saved.amax(1).sum())
    quantum = max(math.gcd(*saved.flatten().tolist()), -(-total // _MOST), 1)
    quanta = saved // quantum
    states = int(quanta.amax(1).sum()) + 1
    f = torch.zeros(states, dtype=torch.float64)
    f[1:] = torch.inf
    taken = []
    for row, save, there in zip(costs, quanta.tolist(), possible, strict=True):
        ways = torch.full((len(row), states), torch.inf, dtype=torch.float64)
        for place, gain in enumerate(save):
            if bool(there[place]):
                ways[place, :gain] = f[0]
                ways[place, gain:] = f[: states - gain]
                ways[place] += row[place]
        f, choice = ways.min(0)
        taken.append(choice)
    found = []
    for target in targets:
        state = min(max(-(-target // quantum), 0), states - 1)
        places = []
        for choice, save in zip(reversed(taken), reversed(quanta.tolist()), strict=True):
            places.append(int(choice[state]))
            state = max(state - save[places[-1]], 0)
        found.append(places[::-1])
    return torch.tensor(found)
