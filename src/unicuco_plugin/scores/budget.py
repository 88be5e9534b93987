"""Brings a method's own shares exactly onto a budget, as every peer must before it is compared."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unicuco_plugin.errors import RequestError, round_down

if TYPE_CHECKING:
    from unicuco_plugin.models.blocks.decoder import Decoder

__all__ = ["BOUNDS", "block_sizes", "check_budget", "meet_budget", "name_units"]

# No paper says what happens where its formula leaves [0, 1]. Nothing is left of a block beyond the upper end.
BOUNDS = (0.0, 0.95)
# Halvings of a bracket at most 2 wide: more than float64 can tell apart.
_HALVINGS = 80
_SLACK = 1e-12


def check_budget(sparsity: float, bounds: tuple[float, float] = BOUNDS) -> None:
    """Refuse a budget that no shares within the bounds meet, before anything is run.

    Raises:
        RequestError: If it lies outside.
    """
    low, high = bounds
    if not low <= sparsity <= high:
        raise RequestError(f"sparsity must be in [{low:g}, {round_down(high)}] for peers, got {sparsity:.6g}")


def meet_budget(
    shares: Tensor, sizes: Sequence[int] | Tensor, sparsity: float, bounds: tuple[float, float] = BOUNDS
) -> Tensor:
    """Shift all shares by one constant and clip them, so that their weighted mean is the budget.

    ``s = clip(s + c, low, high)`` with ``c`` such that ``sum_i n_i s_i = S sum_i n_i``: the Euclidean projection,
    weighted by size, onto the budget. Shares that meet it within the bounds are returned as they are, to rounding.

    Args:
        shares: ``d`` shares of a method's formula, of any real value.
        sizes: ``d`` prunable weights.
        sparsity: The budget ``S``.
        bounds: Least and largest share.

    Returns:
        ``d`` float64 shares on the CPU, whose weighted mean is the budget to 1e-12.

    Raises:
        RequestError: If the bounds do not reach the budget, or a share is not finite.
    """
    check_budget(sparsity, bounds)
    low, high = bounds
    s = shares.detach().double().cpu()
    if not bool(s.isfinite().all()):
        raise RequestError("shares must be finite: the model has weights, or gives states, that are not")
    weights = torch.as_tensor(sizes, dtype=torch.float64)
    weights = weights / weights.sum()
    left, right = low - s.max(), high - s.min()
    c = sparsity - s @ weights
    for _ in range(_HALVINGS):
        error = float((s + c).clamp(low, high) @ weights) - sparsity
        if abs(error) < _SLACK * 1e-3:
            break
        left, right = (left, c) if error > 0 else (c, right)
        c = 0.5 * (left + right)
    return (s + c).clamp(low, high)


def block_sizes(decoder: "Decoder") -> list[int]:
    """Prunable weights of every block: those of its linears.

    Raises:
        UnsupportedModelError: If there is none.
    """
    decoder.all_linears()
    return [
        sum(linear.weight.numel() for linear in decoder.linears(index).values()) for index in range(len(decoder.blocks))
    ]


def name_units(names: Sequence[str], shares: Tensor) -> dict[str, float]:
    """Units that lose something, by name."""
    return {name: share for name, share in zip(names, shares.tolist(), strict=True) if share > 0.0}
