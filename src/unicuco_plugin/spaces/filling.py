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

# c is sought within so many scores of the outermost unit, in so many iterations at most.
_REACH = 60.0
_ITERATIONS = 80


def fill(z: Tensor, n: Tensor, bounds: tuple[Tensor, Tensor], sparsity: float, exact: float) -> Tensor:
    """Add to each row of scores what makes its weighted mean share the budget.

    Args:
        z: ``p x d``.
        n: ``d`` positive weights.
        bounds: Least and largest share of each unit, ``d`` each.
        sparsity: The budget, between the weighted means of the bounds.
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


def _find_constant(z: Tensor, weights: Tensor, bounds: tuple[Tensor, Tensor], sparsity: float, exact: float) -> Tensor:
    """The ``c`` of each row: Newton's steps; halvings of the bracket where one leaves it, and every third time."""
    left, right = -_REACH - z.amax(-1), _REACH - z.amin(-1)
    c = torch.zeros_like(left).clamp(left, right)
    for iteration in range(_ITERATIONS):
        s = (z + c[..., None]).sigmoid()
        clipped = s.clamp(*bounds)
        error = clipped @ weights - sparsity
        if bool((error.abs() < exact).all()):
            break
        left, right = torch.where(error > 0, left, c), torch.where(error > 0, c, right)
        slope = torch.where(s == clipped, s * (1.0 - s), 0.0) @ weights
        newton = c - error / slope.clamp_min(1e-300)
        # Clipped units bend the curve: Newton's steps alone may jump between two pieces without end.
        good = (newton > left) & (newton < right) & (iteration % 3 != 2)
        c = torch.where(good, newton, 0.5 * (left + right))
    return c
