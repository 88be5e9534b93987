"""Descents on the surrogate's posterior at one budget: one swap at a time, or along the gradient of a smooth space.

Notation: ``p`` starts, ``d`` units, ``moves`` neighbours of one strategy.
"""

import torch
from torch import Generator, Tensor

from unicuco_plugin.policy.posterior import Bound, Posterior
from unicuco_plugin.spaces.space import Refining, Space

__all__ = ["descend", "move_beside", "move_onto", "propose_neighbours"]

# Descents start from so many measured strategies at a budget, and at the budgets on either side: the posterior is known
# best there, and their basins are the likeliest. Random starts find basins that nothing has been measured in. They end
# after so many swaps at most. Both are bounds on time, chosen and not measured.
_BEST = 5
_LONGEST = 40
# Moves of whole units that a space of steps adds where the gradient ends; a few, since each looks at all moves.
_FEW = 4
# Adam on the scores of a smooth space: so many steps of this size move a score by about 2, and so a share by less than
# one half. A choice, not tuned.
_STEPS = 40
_RATE = 0.05


def descend(posterior: Posterior, space: Space, x: Tensor, budget: float, *, kappa: float = 0.0) -> Tensor:
    """Lower the posterior's bound from each start without leaving the budget, ``p x d`` to ``p x d``.

    Where shares come in steps the gradient leads first, and then moves that it cannot see.

    Args:
        posterior: Of the measurements.
        space: Of the strategies.
        x: The starts, all at the budget.
        budget: Share of the prunable weights to remove.
        kappa: ``mean + kappa std`` is lowered: positive stays near what is known, negative explores.
    """
    if not len(x):
        return x
    if isinstance(space, Refining):
        return space.refined(lambda rows: posterior.bound(rows, "upper", kappa), x, budget)
    if not space.smooth:
        return _swap(posterior, space, x, kappa, _LONGEST)
    x = _follow_gradient(posterior, space, x, budget, kappa)
    # Every move may exceed its start's budget by less than a step; together they may by more.
    return space.moved(_swap(posterior, space, x, kappa, _FEW), budget) if space.stepped else x


def _follow_gradient(posterior: Posterior, space: Space, x: Tensor, budget: float, kappa: float) -> Tensor:
    with torch.enable_grad():
        z = space.scores(x).clone().requires_grad_(True)
        best, lowest = x.clone(), torch.full((len(x),), torch.inf, dtype=torch.float64)
        optimizer = torch.optim.Adam([z], lr=_RATE)
        for _ in range(_STEPS + 1):
            at = space.project(z, budget)
            value = posterior.bound(at, "upper", kappa)
            lower = value.detach() < lowest
            best[lower], lowest[lower] = at.detach()[lower], value.detach()[lower]
            optimizer.zero_grad()
            value.sum().backward()
            optimizer.step()
    return best


def _swap(posterior: Posterior, space: Space, x: Tensor, kappa: float, longest: int) -> Tensor:
    """Follow the best neighbour from each start until none lowers the bound, or ``longest`` times."""
    x = x.clone()
    value = posterior.bound(x, "upper", kappa)
    live = torch.arange(len(x))
    for _ in range(longest):
        # Paths that have met go on as one.
        at, path = x[live].unique(dim=0, return_inverse=True)
        moves = space.neighbours(at)
        if moves.shape[1] == 0:
            break
        bounds = posterior.bound(moves.flatten(0, 1), "upper", kappa).view(moves.shape[:2])
        best, move = bounds.min(-1)
        better = best[path] < value[live] - 1e-9
        if not bool(better.any()):
            break
        live, path = live[better], path[better]
        x[live] = moves[path, move[path]]
        value[live] = best[path]
    return x


def propose_neighbours(
    posterior: Posterior, space: Space, X: Tensor, *, starts: int, bound: Bound, kappa: float, generator: Generator
) -> Tensor:
    """Collect the ends of descents at every budget, ``count x d``, repeats left in.

    Each budget starts from its best measured strategies, from those of its neighbours on either side moved onto it,
    and from random ones.

    Args:
        posterior: Of the measurements so far.
        space: Of the strategies.
        X: ``n x d`` measured strategies.
        starts: Random starts for each budget.
        bound: Which bound descents lower, and orders the measured strategies.
        kappa: Its width.
        generator: Draws the random starts.
    """
    X = X[posterior.bound(X, bound, kappa).argsort()]
    ends = []
    for index, budget in enumerate(space.budgets):
        begin = [space.moved(X[space.near(X, budget)][:_BEST], budget)]
        if not space.smooth:
            beside = [*space.budgets[max(index - 1, 0) : index], *space.budgets[index + 1 : index + 2]]
            near = [X[space.near(X, other)][:_BEST] for other in beside]
            begin += [move_onto(posterior, space, rows, budget) for rows in near if len(rows)]
        if starts:
            begin.append(space.random(starts, budget, generator))
        explore = {"lower": -kappa, "upper": kappa, "none": 0.0}[bound]
        ends.append(descend(posterior, space, torch.cat(begin), budget, kappa=explore))
    return torch.cat(ends) if ends else X[:0]


def move_onto(posterior: Posterior, space: Space, rows: Tensor, budget: float) -> Tensor:
    """Bring ``p x d`` strategies onto another budget, each by the posterior's slope at its place."""
    with torch.enable_grad():
        x = rows.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(posterior.mean(x).sum(), x)
    # Removed units first, then kept ones; among each the ones whose removal the posterior likes best.
    return space.project(1e3 * rows - slope, budget)


def move_beside(posterior: Posterior, space: Space, rows: Tensor) -> Tensor:
    """Bring ``p x d`` strategies that are at none of the space's budgets onto those on either side, ``q x d``."""
    size = space.sparsity(rows)
    off = torch.ones(len(rows), dtype=torch.bool)
    for budget in space.budgets:
        off &= ~space.near(rows, budget)
    edges = (0.0, *space.budgets, 1.0)
    found = [rows[:0]]
    for below, budget, above in zip(edges, space.budgets, edges[2:], strict=False):
        between = off & (size > below) & (size < above)
        if bool(between.any()):
            found.append(move_onto(posterior, space, rows[between], budget))
    return torch.cat(found)
