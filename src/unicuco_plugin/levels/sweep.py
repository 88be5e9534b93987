"""All levels of one linear, solved together in one SparseGPT sweep over its columns.

Notation
    R, C: rows (output channels) and columns (inputs) of the linear; E: levels
    H: the Hessian ``C x C`` of the inputs; U: the upper Cholesky factor of its damped inverse, ``U' U = H^-1``
    K: columns of a block, whose masks are chosen together; k: columns of a strip inside it
    W: weights; M: masks over U's diagonal, ``mask / U_ii``; X: errors, row i of ``C x E R``: column i of every row
    and level, so that a column is one contiguous row

The rule for column i is the toolkit's: ``x_i = M_i w_i`` with ``w_i = W_i - sum_{j<i} U_ji x_j``. It updates what is
to come after every column; we fetch what is due when a column's turn comes, first for a block (one matrix product with
everything before), then for a strip, then for a column: the same sums, with one write to each weight instead of C / K.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from unicuco_plugin.errors import LevelsError

__all__ = ["Factor", "Solved", "check_width", "factor_hessian", "solve_levels", "sweep_block"]

# Columns of a strip. Within one, products are matrix times vector, bound by memory: half a strip is read per column.
# From 8 to 64 the time is about the same on SmolLM2's shapes, on one core; without strips it is a sixth more.
_STRIP = 16


@dataclass(frozen=True)
class Factor:
    """A Hessian, ready for any number of sweeps; linears that share their input share it.

    Attributes:
        U: Upper Cholesky factor of the damped inverse, ``C x C`` float32; the identity where there is none.
        dead: Which inputs were always zero, ``C`` bools.
        invertible: Whether the inverse exists in float32; if not, weights are pruned by magnitude alone, or rounded.
        order: ``C`` columns in the order of ``U`` and ``dead``; None where that is their own.
    """

    U: Tensor
    dead: Tensor
    invertible: bool
    order: Tensor | None = None


@dataclass(frozen=True)
class Solved:
    """A linear at every level.

    Attributes:
        weights: ``E x R x C``, in the dtype of the dense weight.
        losses: ``E x R`` float32: each row's part of the toolkit's reconstruction loss.
    """

    weights: Tensor
    losses: Tensor


def factor_hessian(H: Tensor, damping: float = 1e-2, *, largest_first: bool = False) -> Factor:
    """Invert and factor a Hessian as the toolkit does, operation by operation, so that the factor is bit-identical.

    Args:
        H: ``C x C`` float32, as the toolkit's ``accumulate_hessian`` leaves it; not changed.
        damping: Share of the mean diagonal that is added to the diagonal.
        largest_first: Whether columns go in the order of their diagonal entries, as in the toolkit's ``static`` GPTQ.

    Source:
        llmcompressor.modifiers.pruning.sparsegpt.sgpt_sparsify and .gptq.helpers; Frantar and Alistarh, SparseGPT
        (2023), section 3.3.
    """
    order = torch.argsort(H.diagonal(), descending=True) if largest_first else None
    H = H.clone() if order is None else H[:, order][order]
    diagonal = H.diagonal()
    dead = diagonal == 0
    diagonal.masked_fill_(dead, 1)
    diagonal += damping * torch.diag(H).mean()
    try:
        U = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return Factor(torch.eye(len(H), dtype=H.dtype, device=H.device), dead, invertible=False, order=order)
    return Factor(U, dead, invertible=True, order=order)


@torch.no_grad()
def solve_levels(W: Tensor, factor: Factor, sparsities: Sequence[float], *, block_size: int = 128) -> Solved:
    """Prune one linear at all sparsities; each level is what the toolkit's ``sparsify_weight`` gives, to rounding.

    Rounding matters where a score ties with its threshold to the last digits: then one weight may be kept instead of
    another, and what follows adapts. On SmolLM2 three of 112 linears and levels did so, by 5e-4 of their masks at most;
    the toolkit differs from itself as much between one thread and two.

    Args:
        W: ``R x C`` dense weight of any floating-point dtype; not changed.
        factor: Of its inputs' Hessian, on the same device.
        sparsities: The levels, each in (0, 1).
        block_size: Columns whose masks are chosen together.

    Returns:
        One weight per level, each with ``int(K R s) + 1`` zeros or more per block of K columns, and losses per row.

    Raises:
        LevelsError: If a sparsity is not in (0, 1), or the factor is for another number of columns.
    """
    rows, columns = W.shape
    _check(columns, factor, sparsities)
    levels = len(sparsities)
    U, diagonal = factor.U, factor.U.diagonal()
    dense = W.t().to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    dense.masked_fill_(factor.dead[:, None], 0)
    X = dense.new_empty((columns, levels * rows))
    weights = W.new_empty((levels, rows, columns))
    losses = dense.new_zeros(levels * rows)
    zero = dense.new_zeros(())
    for start in range(0, columns, block_size):
        end = min(start + block_size, columns)
        w = dense[start:end].repeat(1, levels)
        if start:
            w.addmm_(U[:start, start:end].t(), X[:start], alpha=-1)
        d = diagonal[start:end]
        mask = _mask(w, d, levels, sparsities)
        M, x = mask / d[:, None], X[start:end]
        sweep_block(w, U[start:end, start:end], x, partial(_prune_column, w, M, x))
        losses += x.square().sum(0)
        kept = torch.where(mask, zero, w)
        weights[:, :, start:end] = kept.view(-1, levels, rows).permute(1, 2, 0)
    return Solved(weights, losses.view(levels, rows) / 2)


def _mask(w: Tensor, d: Tensor, levels: int, sparsities: Sequence[float]) -> Tensor:
    """Mark the weights of a block whose loss is at most the level's threshold, ``K x E R`` bools."""
    scores = w.square().div_(d.square()[:, None]).view(len(w), levels, -1)
    by_level = scores.transpose(0, 1).reshape(levels, -1)
    ranks = [int(by_level.shape[1] * sparsity) for sparsity in sparsities]
    # NumPy's selection is 12 times as fast as PyTorch's on the CPU, and 65 times as fast as sorting.
    select = _select_by_partition if w.device.type == "cpu" else _select_by_sorting
    return (scores <= select(by_level, ranks)[:, None]).view(len(w), -1)


def _select_by_partition(values: Tensor, ranks: Sequence[int]) -> Tensor:
    """The entry at place ``rank`` of each row in ascending order; on the CPU."""
    rows = values.numpy()
    return torch.from_numpy(np.stack([np.partition(row, rank)[rank] for row, rank in zip(rows, ranks, strict=True)]))


def _select_by_sorting(values: Tensor, ranks: Sequence[int]) -> Tensor:
    """The same on any device, without waiting for it."""
    ascending = values.sort(dim=1).values
    return torch.stack([row[rank] for row, rank in zip(ascending, ranks, strict=True)])


def _prune_column(w: Tensor, M: Tensor, X: Tensor, i: int) -> None:
    torch.mul(w[i], M[i], out=X[i])


def sweep_block(w: Tensor, U: Tensor, X: Tensor, write_errors: Callable[[int], object]) -> None:
    """Bring the weights of one block to where each column's turn finds them.

    Args:
        w: ``K x E R`` weights with everything before the block accounted for; updated in place.
        U: ``K x K``, the block's part of the factor.
        X: ``K x E R`` errors.
        write_errors: Called with each column when its weights are final; writes its errors to ``X``.
    """
    for start in range(0, len(w), _STRIP):
        end = min(start + _STRIP, len(w))
        if start:
            w[start:end].addmm_(U[:start, start:end].t(), X[:start], alpha=-1)
        for i in range(start, end):
            if i > start:
                w[i].addmv_(X[start:i].t(), U[start:i, i], alpha=-1)
            write_errors(i)


def check_width(columns: int, factor: Factor) -> None:
    """Refuse the factor of another number of columns.

    Raises:
        LevelsError: If it is one.
    """
    if len(factor.U) != columns:
        raise LevelsError(f"a linear of {columns} inputs needs a Hessian of {columns} columns, got {len(factor.U)}")


def _check(columns: int, factor: Factor, sparsities: Sequence[float]) -> None:
    wrong = [sparsity for sparsity in sparsities if not 0 < sparsity < 1]
    if wrong or not sparsities:
        raise LevelsError(f"sparsities must be one or more shares in (0, 1), got {wrong or list(sparsities)}")
    check_width(columns, factor)
