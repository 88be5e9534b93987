r"""The cheapest way to spend a budget where every unit has a list of choices and their costs add up.

====== ===== =====================================================================
symbol shape meaning
====== ===== =====================================================================
costs  d x l what each choice of a unit costs; infinite where it has no such choice
saved  d x l what it saves, whole numbers
f      g x S least cost of the units so far at which at least so many quanta are saved, and of so many sets of needed
             groups one stays, each a bit of the row's number
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


def cheapest(
    costs: Tensor,
    saved: Tensor,
    targets: Sequence[int],
    groups: Sequence[Together] = (),
    needed: Sequence[Sequence[int]] = (),
) -> Tensor:
    """The cheapest choices that save at least a target, for each of several.

    Args:
        costs: ``d x l``, float64.
        saved: ``d x l``, int64, at least 0.
        targets: ``t`` whole numbers, at most what can be saved.
        groups: Of units with a choice in common.
        needed: Sets of these, by number, of each of which one does not go; no group is in two. Each doubles the work.

    Returns:
        ``t x d`` places in the lists, ``TOGETHER`` for all units of a group that goes. Exact where savings have at most
        131 072 different sums; where they have more, the largest targets may be missed by a little.
    """
    possible = costs.isfinite()
    saved = torch.where(possible, saved, 0)
    inside = {unit for group in groups for unit in group.units}
    flag = {place: 1 << number for number, members in enumerate(needed) for place in members}
    every = [(group, flag.get(place, 0)) for place, group in enumerate(groups)]
    every += [(Together((unit,), math.inf, 0), 0) for unit in range(len(costs)) if unit not in inside]
    most = saved.amax(1)
    total = sum(max(int(most[list(group.units)].sum()), group.saved) for group, _ in every)
    quantum = max(math.gcd(*saved.flatten().tolist(), *(group.saved for group in groups)), -(-total // _MOST), 1)
    states, flags = -(-total // quantum) + 1, 1 << len(needed)
    quanta = (saved // quantum).tolist()
    f = torch.full((flags, states), torch.inf, dtype=torch.float64)
    f[0, 0] = 0.0
    taken = []
    for group, bit in every:
        gone, choices = _after(f, group.saved // quantum, group.cost), []
        for unit in group.units:
            ways = [_after(f, gain, cost) for gain, cost in zip(quanta[unit], costs[unit].tolist(), strict=True)]
            f, choice = torch.stack(ways).min(0)
            choices.append(choice.to(torch.int16))
        new = torch.zeros_like(f, dtype=torch.bool)
        if bit:
            without = [number for number in range(flags) if not number & bit]
            having = [number | bit for number in without]
            new[having] = f[without] < f[having]
            f[having] = torch.minimum(f[without], f[having])
            f[without] = torch.inf
        better = gone < f
        f = torch.where(better, gone, f)
        taken.append((better, new, choices))
    found = torch.empty(len(targets), len(costs), dtype=torch.long)
    for row, target in zip(found, targets, strict=True):
        state, at = min(max(-(-target // quantum), 0), states - 1), flags - 1
        for (group, bit), (better, new, choices) in zip(reversed(every), reversed(taken), strict=True):
            if bool(better[at, state]):
                row[list(group.units)] = TOGETHER
                state = max(state - group.saved // quantum, 0)
                continue
            at = at ^ bit if bool(new[at, state]) else at
            for unit, choice in zip(reversed(group.units), reversed(choices), strict=True):
                row[unit] = choice[at, state]
                state = max(state - quanta[unit][int(row[unit])], 0)
    return found


def _after(f: Tensor, gain: int, cost: float) -> Tensor:
    """``f`` once a choice is taken that saves so many quanta."""
    after = f[:, :1].expand_as(f).clone()
    after[:, gain:] = f[:, : f.shape[1] - gain]
    return after + cost
