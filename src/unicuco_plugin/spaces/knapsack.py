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
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["TOGETHER", "Together", "cheapest"]

TOGETHER = -1
"""What stands for the place of a unit that goes with its group."""

# Totals that are told apart. SmolLM2's units of bits make 49 000, and take a fifth of a second; where there are more,
# savings are counted in coarser quanta, rounded down, so that a budget is still met.
_MOST = 2**17


@dataclass(frozen=True)
class Together:
    """A choice that some units have beside their own ones, and take all together or not at all.

    Attributes:
        units: Their numbers; no unit is in two groups.
        cost: Of all of them; infinite where they may not take it.
        saved: By all of them, a whole number.
    """

    units: tuple[int, ...]
    cost: float
    saved: int


def cheapest(costs: Tensor, saved: Tensor, targets: Sequence[int], groups: Sequence[Together] = ()) -> Tensor:
    """The cheapest choices that save at least a target, for each of several.

    Args:
        costs: ``d x l``, float64.
        saved: ``d x l``, int64, at least 0.
        targets: ``t`` whole numbers, at most what can be saved.
        groups: Of units with a choice in common.

    Returns:
        ``t x d`` places in the lists, ``TOGETHER`` for all units of a group that goes. Exact where savings have at most
        131 072 different sums.
    """
    possible = costs.isfinite()
    saved = torch.where(possible, saved, 0)
    inside = {unit for group in groups for unit in group.units}
    alone = [Together((unit,), math.inf, 0) for unit in range(len(costs)) if unit not in inside]
    groups = [*alone, *groups]
    most = saved.amax(1)
    total = sum(max(int(most[list(group.units)].sum()), group.saved) for group in groups)
    quantum = max(math.gcd(*saved.flatten().tolist(), *(group.saved for group in groups)), -(-total // _MOST), 1)
    states = -(-total // quantum) + 1
    quanta = (saved // quantum).tolist()
    f = torch.full((states,), torch.inf, dtype=torch.float64)
    f[0] = 0.0
    taken = []
    for group in groups:
        before, choices = f, []
        for unit in group.units:
            ways = [_after(f, gain, float(cost)) for gain, cost in zip(quanta[unit], costs[unit], strict=True)]
            f, choice = torch.stack(ways).min(0)
            choices.append(choice)
        gone = _after(before, group.saved // quantum, group.cost)
        better = gone < f
        f = torch.where(better, gone, f)
        taken.append((better, choices))
    found = torch.empty(len(targets), len(costs), dtype=torch.long)
    for row, target in zip(found, targets, strict=True):
        state = min(max(-(-target // quantum), 0), states - 1)
        for group, (better, choices) in zip(reversed(groups), reversed(taken), strict=True):
            if bool(better[state]):
                row[list(group.units)] = TOGETHER
                state = max(state - group.saved // quantum, 0)
                continue
            for unit, choice in zip(reversed(group.units), reversed(choices), strict=True):
                row[unit] = choice[state]
                state = max(state - quanta[unit][int(row[unit])], 0)
    return found


def _after(f: Tensor, gain: int, cost: float) -> Tensor:
    """``f`` once a choice is taken that saves so many quanta."""
    after = f[0].expand(len(f)).clone()
    after[gain:] = f[: len(f) - gain]
    return after + cost
