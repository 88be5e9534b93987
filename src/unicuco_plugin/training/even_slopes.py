r"""First strategies of non-uniform sparsity from structure: allocations that even out the slopes of the divergence.

At the best allocation of a budget no weight is cheaper to remove than another: the slope per weight is one number for
all units (the KKT conditions of ``min KL`` at ``sum_i n_i s_i``). From uniform sparsity each round moves the scores
towards it,

    ``z_i <- z_i - log(a_i) / e``,

and shifts all of them back onto the budget.

====== ===== ==================================================================================
symbol shape meaning
====== ===== ==================================================================================
slope  d     ``d KL / d s`` of a unit at one allocation, nats per token
a      d     slope per weight over its mean over all weights, within ``_TRUSTED``
z      d     scores of an allocation, ``s = sigmoid(z + c)``
n      d     prunable weights of a unit
====== ===== ==================================================================================
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.journal.once import note_once
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.memory import Fitting
from unicuco_plugin.objectives.sensitivity import TOKEN_COST, measure_slopes
from unicuco_plugin.policy.prior import Prior
from unicuco_plugin.spaces.plan import plan_counts
from unicuco_plugin.spaces.space import Space
from unicuco_plugin.training.starts import Allocation, find_starts, layerwise_scores

__all__ = ["even_out", "find_prior", "structural_starts"]

# Budgets where slopes are evened out, those of them that the bounds reach with room on either side. Below, the
# divergence is too small to matter; other budgets take the scores of the nearest.
_ANCHORS = (0.4, 0.5, 0.6, 0.7)
_ROUNDS = 2  # measured: the first takes 17 to 30 % off the divergence, the second up to 12 %, a third nothing
_STEP = 1.0 / 3.0  # 1 / e: the slope of a unit grows about as exp(e z)
# A slope that noise makes tiny, negative or huge must not send a unit to its bound.
_TRUSTED = (0.2, 10.0)
# The least that a weight counts in the prior, over the mean. Noise makes some slopes tiny, and descents find them:
# without it a search on SmolLM2 ended at 1.15 times the divergence, and random strategies are ranked no worse with it.
_LEAST = 0.5
# Within which slopes are taken to grow as ``exp(g s)``: SmolLM2's blocks have 8, its linears 10.
_STEEPNESS = (4.0, 12.0)


def structural_starts(
    decoder: Decoder, levels: Levels, space: Space, windows: Tensor, journal: Journal
) -> tuple[Tensor, Prior, int]:
    """Even out slopes at the anchors, score blocks as OWL and DLP do, and make first strategies and a prior of it.

    Every pass over the model is journaled.

    Args:
        decoder: The dense model.
        levels: Its level database.
        space: The space ``sparsity`` over it.
        windows: ``m x L`` ranking windows.
        journal: Keeps slopes and scores.

    Returns:
        First strategies ``n x d``, the prior, and the evaluation tokens spent.
    """
    spent, fitting = 0, Fitting(1)
    runner = cache(lambda: BlockRunner(decoder, windows.shape[1]))  # made when something is left to measure

    def slopes_at(x: Tensor) -> Tensor:
        nonlocal spent
        spent += windows.numel() * TOKEN_COST
        plan = plan_counts(space.to_units(x), levels.sizes)
        note = f"slopes {space.key(x)}"
        slopes = note_once(journal, note, lambda: fitting(lambda _: measure_slopes(runner(), levels, windows, plan)))
        return _by_unit(slopes, levels, space)

    low, high = space.budgets[0], space.budgets[-1]
    anchors = [anchor for anchor in _ANCHORS if low < anchor < high] if len(levels.sparsities) > 1 else []
    found = [even_out(space, anchor, slopes_at) for anchor in anchors]
    others = note_once(journal, "layerwise", lambda: layerwise_scores(decoder, windows, space))
    spent += windows.numel() * len(others)
    starts = find_starts(space, found, torch.tensor(others, dtype=torch.float64))
    return starts, find_prior(space, found), spent


def even_out(space: Space, budget: float, slopes_at: Callable[[Tensor], Tensor], rounds: int = _ROUNDS) -> Allocation:
    """Move from uniform sparsity towards one slope per weight.

    Args:
        space: The space ``sparsity``.
        budget: Share to remove, in its reach.
        slopes_at: From an allocation ``d`` to its slopes ``d``.
        rounds: Passes over the slopes.
    """
    n = space.params
    z = torch.zeros(len(n), dtype=torch.float64)
    scores, slopes = [z], []
    for _ in range(rounds):
        slope = slopes_at(space.project(z[None], budget)[0])
        slopes.append(slope)
        mean = slope.sum() / n.sum()
        if mean > 0:  # otherwise there is nothing to follow
            a = (slope / n / mean).clamp(*_TRUSTED)
            z = space.scores(space.project((z - _STEP * a.log())[None], budget))[0]
        scores.append(z)
    return Allocation(budget, torch.stack(scores), torch.stack(slopes))


def find_prior(space: Space, found: Sequence[Allocation]) -> Prior:
    """Curves of every unit from what its slopes were beside the others'.

    A unit's slope is taken to be ``w_i(s_i) exp(g s_i)``. Every pass gives shares of the slope, ``a_i / sum a``; over
    the shares that weights alone would give there, ``n_i exp(g s_i) / sum n exp(g s)``, they are ``w_i / n_i``: at an
    anchor's sparsity the mean of its passes, none below ``_LEAST``, between two anchors the line between them, beyond
    the outermost the same. How steep a curve is, ``g``, is what slopes fell by where a unit was relieved, from one
    round to the next.

    Args:
        space: The space ``sparsity``.
        found: The anchors' allocations, by rising budget; none makes every weight count alike.
    """
    budgets = torch.tensor([part.budget for part in found] or [0.5], dtype=torch.float64)
    level = torch.tensor([part.growth for part in found] or [1.0], dtype=torch.float64).clamp_min(1e-6).log().mean()
    steepness = _steepness(space, found)
    ratios = [torch.ones(len(space.units), dtype=torch.float64)] if not found else []
    for part in found:
        alike = space.params * (steepness * space.project(part.scores[:-1], part.budget)).exp()
        ratios.append((part.slope_shares * alike.sum(1, keepdim=True) / alike).mean(0).clamp_min(_LEAST))
    knots = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    weight = space.params[:, None] * _between(budgets, torch.stack(ratios), knots).T
    common = (level + steepness * (knots - budgets.mean())).exp()
    return Prior.from_slopes(knots, weight / weight.sum(0) * common)


def _between(at: Tensor, rows: Tensor, knots: Tensor) -> Tensor:
    """Rows ``k x d`` known at ``k`` rising places, on straight lines between them: one for each knot."""
    place = knots.clamp(at[0], at[-1])
    right = torch.searchsorted(at, place).clamp(min(1, len(at) - 1), len(at) - 1)
    left = (right - 1).clamp_min(0)
    width = (at[right] - at[left]).clamp_min(1e-12)
    part = ((place - at[left]) / width).clamp(0.0, 1.0)[:, None]
    return (1.0 - part) * rows[left] + part * rows[right]


def _steepness(space: Space, found: Sequence[Allocation]) -> float:
    """``g`` by least squares over units and rounds: of ``log`` slopes per weight on shares, both less their mean.

    Within ``_STEEPNESS``; its middle where no round moved anything. Noise in a slope that the next round corrects makes
    it larger than the curve's own, which is as it should be: the less slopes can be trusted, the less the prior's best
    allocation follows them.
    """
    n = space.params / space.params.sum()
    product = square = 0.0
    for part in found:
        x = space.project(part.scores[:-1], part.budget)
        slope = (part.slope_shares / n).clamp(*_TRUSTED).log()
        moved, fell = x.diff(dim=0), slope.diff(dim=0)
        moved, fell = moved - (moved @ n)[:, None], fell - (fell @ n)[:, None]
        product += (n * moved * fell).sum().item()
        square += (n * moved * moved).sum().item()
    low, high = _STEEPNESS
    return min(max(product / square, low), high) if square > 1e-9 else 0.5 * (low + high)


def _by_unit(slopes: dict[str, float], levels: Levels, space: Space) -> Tensor:
    """Slopes of units: those of their linears, added up, since a unit's share is each linear's."""
    found = []
    for unit in space.units:
        members = [name for name in levels.sizes if name == unit or name.startswith(f"{unit}.")]
        found.append(sum(slopes[name] for name in members))
    return torch.tensor(found, dtype=torch.float64)
