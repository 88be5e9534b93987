"""Descents on the surrogate's posterior: from many starts, one swap at a time, at one budget.

Notation: ``p`` starts, ``d`` units, ``moves`` neighbours of one strategy.
"""

import torch
from torch import Generator, Tensor

from unicuco_plugin.search.posterior import Bound, Posterior
from unicuco_plugin.spaces.space import Space

__all__ = ["descend", "propose_neighbours"]

# Measured strategies of a budget, and of the budgets on either side, that descents start from; their posterior is
# best known and their basins are the likeliest. Random starts are what finds the basins nobody has been to.
_BEST = 5
_LONGEST = 40


def descend(posterior: Posterior, space: Space, x: Tensor) -> Tensor:
    """Follow the best swap from each start until none lowers the posterior mean, ``p x d`` to ``p x d``.

    All starts must be at one budget.
    """
    x = x.clone()
    value = posterior.mean(x)
    live = torch.arange(len(x))
    for _ in range(_LONGEST):
        moves = space.neighbours(x[live])
        if moves.shape[1] == 0:
            break
        means = posterior.mean(moves.flatten(0, 1)).view(moves.shape[:2])
        best, move = means.min(-1)
        better = best < value[live] - 1e-9
        if not bool(better.any()):
            break
        moved = better.nonzero()[:, 0]
        live = live[moved]
        x[live] = moves[moved, move[moved]]
        value[live] = best[moved]
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
        bound: Which bound orders the measured strategies.
        kappa: Its width.
        generator: Draws the random starts.
    """
    believed = posterior.bound(X, bound, kappa)
    X = X[believed.argsort()]
    sparsity = space.sparsity(X)
    budgets = torch.tensor(space.budgets, dtype=torch.float64)
    nearest = (sparsity[:, None] - budgets[None]).abs().argmin(-1)
    ends = []
    for index, budget in enumerate(space.budgets):
        near = [X[nearest == other][:_BEST] for other in (index, index - 1, index + 1)]
        begin = [near[0]]
        begin += [_moved(posterior, space, rows, budget) for rows in near[1:] if len(rows)]
        if starts:
            begin.append(space.random(starts, budget, generator))
        rows = torch.cat(begin)
        if len(rows):
            ends.append(descend(posterior, space, rows))
    return torch.cat(ends) if ends else X[:0]


def _moved(posterior: Posterior, space: Space, rows: Tensor, budget: float) -> Tensor:
    """Bring strategies onto another budget, each by the posterior's slope at its place."""
    x = rows.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(posterior.mean(x).sum(), x)
    # Removed units first, then kept ones; among each the ones whose removal the posterior likes best.
    return space.project(1e3 * rows - slope, budget)
