"""Descents on the surrogate's posterior at one budget: one swap at a time, or along the gradient of a smooth space.

Notation: ``p`` starts, ``d`` units, ``moves`` neighbours of one strategy.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Generator, Tensor

from unicuco_plugin.policy.posterior import Bound, Posterior
from unicuco_plugin.policy.screening import LEAST_GAIN, Screening
from unicuco_plugin.spaces.space import Flips, Refining, Sketches, Space

__all__ = ["descend", "descend_alike", "move_beside", "move_onto", "propose_neighbours"]

# Descents start from so many measured strategies at a budget, and at the budgets on either side: the posterior is known
# best there, and their basins are the likeliest. Random starts find basins that nothing has been measured in. They end
# after so many swaps at most. Both are bounds on time, chosen and not measured.
_BEST = 5
_LONGEST = 40
# Moves of whole units that a space of steps adds where the gradient ends; a few, since each looks at all moves.
_FEW = 4
# So many strategies have their moves listed at once that these have about as many numbers, times moves for each unit.
_CELLS = 2**16
# Moves that are made of those that a space has sketched. In 352 steps on SmolLM2's posterior and two synthetic ones,
# the best move of 120 or 240 was among the first 9 of the sketches 97 times of 100, and twice behind the 48th.
_SKETCHED = 48
# Adam on the scores of a smooth space: so many steps of this size move a score by about 2, and so a share by less than
# one half. A choice, not tuned.
_STEPS = 40
_RATE = 0.05


def descend(posterior: Posterior, space: Space, x: Tensor, budget: float | Tensor, *, kappa: float = 0.0) -> Tensor:
    """Lower the posterior's bound from each start without leaving the budget, ``p x d`` to ``p x d``.

    Where shares come in steps the gradient leads first, and then moves that it cannot see.

    Args:
        posterior: Of the measurements.
        space: Of the strategies.
        x: The starts, each at its budget.
        budget: Share of the prunable weights to remove, of all or of each start.
        kappa: ``mean + kappa std`` is lowered: positive stays near what is known, negative explores.
    """
    if not len(x):
        return x
    if not isinstance(space, Refining) and _vouches(space, "mixes_budgets", "project", "moved", "neighbours"):
        return _descend(posterior, space, x, budget, kappa)
    each, found = torch.as_tensor(budget, dtype=torch.float64).expand(len(x)), x.clone()
    for one in each.unique().tolist():
        rows = each == one
        if isinstance(space, Refining):
            found[rows] = space.refined(lambda at: posterior.bound(at, "upper", kappa), x[rows], one)
        else:
            found[rows] = _descend(posterior, space, x[rows], one, kappa)
    return found


def descend_alike(
    posterior: Posterior, space: Space, x: Tensor, budgets: Sequence[float], *, kappa: float, count: int
) -> Tensor:
    """The same in a smooth space for starts that each have a budget; no row depends on those beside it.

    Gradients are followed by ``count`` rows at a time, the last ones repeated: products of one shape round alike, and
    so many cost little more than one.

    Args:
        posterior: Of the measurements.
        space: Of the strategies.
        x: ``p x d``, at most ``count`` starts.
        budgets: ``p`` of them.
        kappa: As ``descend``.
        count: Rows of every product.
    """
    pairs = zip(x.split(1), budgets, strict=True)
    if isinstance(space, Refining) or not _vouches(space, "mixes_budgets", "project", "moved", "neighbours"):
        return torch.cat([descend(posterior, space, row, budget, kappa=kappa) for row, budget in pairs])
    lacking = count - len(x)
    filled = torch.tensor([*budgets, *[budgets[0]] * lacking], dtype=torch.float64)
    x = _follow_gradient(posterior, space, torch.cat([x, x[:1].expand(lacking, -1)]), filled, kappa)[: len(x)]
    if not space.stepped:
        return x
    pairs = zip(x.split(1), budgets, strict=True)
    return torch.cat([space.moved(_swap(posterior, space, row, kappa, _FEW), budget) for row, budget in pairs])


def _vouches(space: object, name: str, *methods: str) -> bool:
    """Whether a space has an attribute that it need not have, and this holds of the methods that it speaks of.

    It does not where a class inherits it and defines a method anew: it may be a plugin's that knows nothing of it.
    """
    if not getattr(space, name, False):
        return False
    order = [vars(kind) for kind in type(space).__mro__]
    places = [next((place for place, own in enumerate(order) if one in own), len(order)) for one in (name, *methods)]
    return places[0] == min(places)


def _descend(posterior: Posterior, space: Space, x: Tensor, budget: float | Tensor, kappa: float) -> Tensor:
    if not space.smooth:
        return _swap(posterior, space, x, kappa, _LONGEST)
    x = _follow_gradient(posterior, space, x, budget, kappa)
    # Every move may exceed its start's budget by less than a step; together they may by more.
    return space.moved(_swap(posterior, space, x, kappa, _FEW), budget) if space.stepped else x


def _follow_gradient(posterior: Posterior, space: Space, x: Tensor, budget: float | Tensor, kappa: float) -> Tensor:
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
    best_of: Callable[[Tensor], tuple[Tensor, Tensor]] = partial(_best_of_all, posterior, space, kappa)
    if isinstance(space, Flips) and _vouches(space, "flips", "neighbours") and Screening.fits(posterior):
        best_of = Screening(posterior, space, kappa).best
    for _ in range(longest):
        # Paths that have met go on as one.
        at, path = x[live].unique(dim=0, return_inverse=True)
        moved, bounds = best_of(at)
        better = bounds[path] < value[live] - LEAST_GAIN
        if not bool(better.any()):
            break
        live, path = live[better], path[better]
        x[live], value[live] = moved[path], bounds[path]
    return x


def _best_of_all(posterior: Posterior, space: Space, kappa: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """Where the best neighbour of ``p x d`` strategies is, and its bound; infinite where there is none.

    Of neighbours that are sketched first, only the likeliest are made.
    """
    found, moved = [], []
    for at in x.split(max(1, _CELLS // x.shape[1] ** 2)):
        if isinstance(space, Sketches) and _vouches(space, "sketch", "neighbours"):
            likely = posterior.mean(space.sketch(at).flatten(0, 1)).view(len(at), -1)
            only = likely.topk(min(_SKETCHED, likely.shape[1]), largest=False).indices
            moves = space.neighbours(at, only)
        else:
            moves = space.neighbours(at)
        if moves.shape[1] == 0:
            return x, torch.full((len(x),), torch.inf, dtype=torch.float64)
        bounds = posterior.bound(moves.flatten(0, 1), "upper", kappa).view(moves.shape[:2])
        bound, place = bounds.min(-1)
        found.append(bound)
        moved.append(moves[torch.arange(len(at)), place])
    return torch.cat(moved), torch.cat(found)


def propose_neighbours(
    posterior: Posterior, space: Space, X: Tensor, *, starts: int, bound: Bound, kappa: float, generator: Generator
) -> Tensor:
    """Collect the ends of descents at every budget, ``count x d``, repeats left in.

    Each budget starts from its best measured strategies, from those of its neighbours on either side moved onto it,
    and from random ones. All budgets descend together.

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
    best = [X[space.near(X, budget)][:_BEST] for budget in space.budgets]
    if not space.smooth:
        slopes = [_slope(posterior, rows) for rows in best]
    begin, at = [X[:0]], []
    for index, budget in enumerate(space.budgets):
        starting = [space.moved(best[index], budget)]
        if not space.smooth:
            beside = [i for i in (index - 1, index + 1) if 0 <= i < len(best) and len(best[i])]
            starting += [_moved_along(space, best[i], slopes[i], budget) for i in beside]
        if starts:
            starting.append(space.random(starts, budget, generator))
        begin += starting
        at += [budget] * sum(map(len, starting))
    explore = {"lower": -kappa, "upper": kappa, "none": 0.0}[bound]
    return descend(posterior, space, torch.cat(begin), torch.tensor(at, dtype=torch.float64), kappa=explore)


def move_onto(posterior: Posterior, space: Space, rows: Tensor, budget: float) -> Tensor:
    """Bring ``p x d`` strategies onto another budget, each by the posterior's slope at its place."""
    return _moved_along(space, rows, _slope(posterior, rows), budget)


def _slope(posterior: Posterior, rows: Tensor) -> Tensor:
    with torch.enable_grad():
        x = rows.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(posterior.mean(x).sum(), x)
    return slope


def _moved_along(space: Space, rows: Tensor, slope: Tensor, budget: float) -> Tensor:
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
