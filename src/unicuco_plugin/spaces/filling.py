r"""A budget spent exactly by scores of any size: one constant for a whole row, found by Newton's method.

====== ===== =====================================================
symbol shape meaning
====== ===== =====================================================
z      p x d scores, any real number: higher, sparser
n      d     prunable weights of each unit
s      p x d shares, ``clip(sigmoid(z + c), low, high)``
c      p     the constant that makes a row spend its budget
====== ===== =====================================================
"""

import torch
from torch import Tensor

__all__ = ["fill"]

# c is sought within so many scores of the outermost unit: sigmoid(-60) is 1e-26, far below any budget's precision.
# All of 300 random problems of up to 200 units met 1e-15 within 38 iterations, half of them within 23.
_REACH = 60.0
_ITERATIONS = 80


def fill(z: Tensor, n: Tensor, bounds: tuple[Tensor, Tensor], sparsity: float | Tensor, exact: float) -> Tensor:
    """Add to each row of scores what makes its weighted mean share the budget.

    Args:
        z: ``p x d``.
        n: ``d`` positive weights.
        bounds: Least and largest share of each unit, ``d`` each.
        sparsity: The budget, between the weighted means of the bounds; ``p`` of them where rows have their own.
        exact: How far from it a row may end, in shares of all weights.

    Returns:
        ``p x d`` shares, differentiable in ``z``.
    """
    low, high = bounds
    c = _find_constant(z.detach(), n / n.sum(), bounds, sparsity, exact)
    s = (z + c[..., None]).sigmoid()
    if not z.requires_grad:
        return s.clamp(low, high)
    # The budget gives the derivative of c: dc = - sum_i n_i s'_i dz_i / sum_i n_i s'_i, over unclipped units.
    free = ((s > low) & (s < high)).to(s) * (s * (1.0 - s)).detach() * n
    weight = free / free.sum(-1, keepdim=True).clamp_min(1e-300)
    moved = (weight * (z - z.detach())).sum(-1, keepdim=True)
    return (z + c[..., None] - moved).sigmoid().clamp(low, high)


def _find_constant(
    z: Tensor, weights: Tensor, bounds: tuple[Tensor, Tensor], sparsity: float | Tensor, exact: float
) -> Tensor:
    """The ``c`` of each row: Newton's steps, halvings of the bracket where these leave it or shrink too slowly.

    A row that has met its budget rests, and sums are taken row by row, where a product's rounding depends on how many
    rows there are: so none depends on the rows beside it.
    """
    left, right = -_REACH - z.amax(-1), _REACH - z.amin(-1)
    c = torch.zeros_like(left).clamp(left, right)
    last = before = right - left
    rows, share = torch.arange(len(z)), torch.as_tensor(sparsity, dtype=z.dtype).expand(len(z))
    for _ in range(_ITERATIONS):
        s = (z + c[rows, None]).sigmoid()
        clipped = s.clamp(*bounds)
        error = (clipped * weights).sum(-1) - share
        if not bool((open_ := error.abs() >= exact).all()):
            state = (rows, z, share, s, clipped, error, left, right, last, before)
            rows, z, share, s, clipped, error, left, right, last, before = (part[open_] for part in state)
            if not len(rows):
                break
        at, over = c[rows], error > 0
        left, right = torch.where(over, left, at), torch.where(over, at, right)
        step = error / (s * (1.0 - s) * (s == clipped) * weights).sum(-1).clamp_min(1e-300)
        newton, middle = at - step, 0.5 * (left + right)
        # Clipped units bend the curve: Newton's steps alone may jump between two pieces without end.
        good = (newton >= left) & (newton <= right) & (step.abs() <= 0.5 * before)
        before, last = last, torch.where(good, step, at - middle).abs()
        c[rows] = torch.where(good, newton, middle)
    return c
