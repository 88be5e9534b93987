r"""Exact hypervolume of two objectives, and the greedy choice of candidates that raise it most.

Both objectives are minimised, in float64; every value is finite.

====== ========= ======================================================================
symbol shape     meaning
====== ========= ======================================================================
F      n x 2     objective values, one row per strategy, always (size, quality)
r      2         reference point: only what lies strictly below it in both counts
pool   C x 2     predicted objective values of candidates
lower  cells x 2 lower corners of the boxes that tile what ``F`` does not dominate
upper  cells x 2 their upper corners
====== ========= ======================================================================
"""

import torch
from botorch.utils.multi_objective.box_decompositions.non_dominated import FastNondominatedPartitioning
from botorch.utils.multi_objective.pareto import is_non_dominated
from torch import Tensor

from unicuco_plugin.policy.scalarization import Scaling

__all__ = ["hypervolume", "non_dominated", "reference_point", "scale_front", "select_by_improvement"]

# The paper gives no reference point. A tenth of the front's range beyond its nadir keeps the two end points worth
# something; unlike 1.1 x nadir it also holds for targets below zero, such as a log divergence (docs/method.md).
_MARGIN = 0.1


def non_dominated(F: Tensor) -> Tensor:
    """Mark the points that no other point beats.

    Args:
        F: An ``n x 2`` tensor of objective values, minimised.

    Returns:
        An ``n`` tensor of bools: True where no other row is at most as large in both columns and smaller in one.
        Equal rows do not beat each other, so of duplicates all or none are marked.
    """
    mask: Tensor = is_non_dominated(F, maximize=False, deduplicate=False)
    return mask


def scale_front(F: Tensor) -> Scaling:
    """Read ideal and nadir off the non-dominated rows.

    Args:
        F: An ``n x 2`` tensor of objective values, minimised, ``n >= 1``; dominated rows do not stretch the scale.

    Returns:
        The scaling. An objective that does not vary over the front keeps its unit: its nadir is ideal + 1.

    Raises:
        ValueError: If ``F`` is empty, or a value on the front is not finite.
    """
    if len(F) == 0:
        raise ValueError(f"F must hold at least one point, got shape {tuple(F.shape)}")
    front = F[non_dominated(F)].to(torch.float64)
    ideal, nadir = front.amin(dim=0).tolist(), front.amax(dim=0).tolist()
    nadir = [high if high > low else low + 1.0 for low, high in zip(ideal, nadir, strict=True)]
    return Scaling(ideal=(ideal[0], ideal[1]), nadir=(nadir[0], nadir[1]))


def hypervolume(F: Tensor, r: Tensor) -> float:
    """Measure the area that ``F`` dominates below the reference point, Eq. (12).

    Args:
        F: An ``n x 2`` tensor of objective values, minimised; ``n`` may be 0.
        r: The reference point, a tensor of 2.

    Returns:
        The area, in the product of the two objectives' units; points that are not strictly below ``r`` add nothing.

    Source:
        UniCuCo, Eq. (12); the sweep in Guerreiro et al., 2021.
    """
    front = F[non_dominated(F) & (r > F).all(dim=-1)]
    front = front[front[:, 0].argsort()]  # f_1 rises, so f_2 falls; duplicates make boxes of no height
    widths = r[0] - front[:, 0]
    heights = torch.cat([r[1:], front[:-1, 1]])[: len(front)] - front[:, 1]
    return float((widths * heights).sum())


def reference_point(F: Tensor) -> Tensor:
    """Place the reference point a tenth of the front's range beyond its nadir.

    Args:
        F: An ``n x 2`` tensor of objective values, minimised, ``n >= 1``.

    Returns:
        A tensor of 2, ``nadir + 0.1 (nadir - ideal)`` of the non-dominated rows; bad points do not stretch it. Where
        the front is a single point, that point itself.

    Raises:
        ValueError: If ``F`` is empty.

    Source:
        Decided in docs/method.md, "What is measured next"; the paper is silent.
    """
    if len(F) == 0:
        raise ValueError(f"F must hold at least one point, got shape {tuple(F.shape)}")
    front = F[non_dominated(F)]
    ideal, nadir = front.amin(dim=0), front.amax(dim=0)
    return nadir + _MARGIN * (nadir - ideal)


def select_by_improvement(pool: Tensor, F: Tensor, r: Tensor, count: int) -> list[int]:
    """Choose candidates one by one, each the one that raises the hypervolume most given those before it.

    The improvement of a candidate is the overlap of its dominated box with the boxes that tile the space no point
    dominates yet: exact, and one partitioning a pick serves the whole pool.

    Args:
        pool: A ``C x 2`` tensor of the candidates' objective values, minimised.
        F: An ``n x 2`` tensor of what is already measured; ``n`` may be 0.
        r: The reference point, a tensor of 2; candidates not strictly below it are never chosen.
        count: The most candidates to choose.

    Returns:
        Row numbers of ``pool`` in the order chosen, without repeats; the lowest number among equals. Fewer than
        ``count`` if no candidate left improves.

    Source:
        UniCuCo, Eq. (12) and (13), greedily; the pool-wide overlap is derived in docs/method.md.
    """
    chosen: list[int] = []
    while len(chosen) < min(count, len(pool)):
        gain = _improvements(pool, torch.cat([F, pool[chosen]]), r)
        best = int((gain == gain.max()).nonzero()[0])
        if not gain[best] > 0.0:
            break
        chosen.append(best)
    return chosen


def _improvements(pool: Tensor, F: Tensor, r: Tensor) -> Tensor:
    # BoTorch maximises. Negation is exact, so a candidate that lies on the front gains exactly zero.
    lower, upper = FastNondominatedPartitioning(ref_point=-r, Y=-F).get_hypercell_bounds()
    overlap = (torch.minimum(-pool[:, None, :], upper) - lower).clamp_min(0.0)  # C x cells x 2
    gain: Tensor = overlap.prod(dim=-1).sum(dim=-1)
    return gain
