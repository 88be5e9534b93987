r"""What a correction is solved from: second moments at one cut, from states that passed once.

====== ========= ==================================================================================
symbol shape     meaning
====== ========= ==================================================================================
u      t x c     inputs of the projection before the cut; a column of ones behind them for its bias
h      t x d     states that leave the last block before the cut, as the model now computes them
y      t x d     states of the dense model where the next kept block begins: the target
r      t x d     ``y - h``
w      t         weights of rows
G      c x c     ``sum_t w u u^T``
C      c x d     ``sum_t w u r^T``
====== ========= ==================================================================================
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Moments", "Weigh", "equally", "relatively", "weigh_rows"]

Weigh: TypeAlias = Callable[[Tensor], Tensor]
"""Turns states, ``b x L x d``, into weights of rows, ``b x L``."""

# The block before an early cut may be the one that writes the first token's huge state, which all others attend to: a
# regression without it doubled the divergence at eleven blocks of SmolLM2-135M (docs/compensation.md).
_FIRST = 8.0


def equally(states: Tensor) -> Tensor:
    """Every row counts the same."""
    return torch.ones(states.shape[:2], device=states.device)


def relatively(states: Tensor) -> Tensor:
    """One over the size of the state, since what follows reads it through a norm; a window's first token eight times.

    One over the squared size was as good within 0.3 % at eleven blocks of SmolLM2-135M.
    """
    weights = 1.0 / states.float().square().mean(-1).sqrt().clamp_min(1e-6)
    weights[:, 0] *= _FIRST
    return weights


def weigh_rows(inputs: Tensor, weights: Tensor, *, ones: bool) -> tuple[Tensor, Tensor]:
    """``u``, ``t x c``, and ``w u``, in float32.

    Args:
        inputs: ``b x L x c``, without the ones.
        weights: ``b x L``.
        ones: Whether to add a column of ones.
    """
    u = inputs.float().flatten(0, 1)
    if ones:
        u = torch.cat([u, torch.ones_like(u[:, :1])], 1)
    return u, u * weights.flatten()[:, None]


@dataclass
class Moments:
    """Sums over rows, on the device of the states; float64.

    Attributes:
        gram: ``G``.
        cross: ``C``.
        ratio: Sum of ``||y||_1 / ||h||_1`` over rows, unweighted.
        tokens: Rows.
    """

    gram: Tensor
    cross: Tensor
    ratio: Tensor
    tokens: int = 0

    @classmethod
    def zeros(cls, inputs: int, outputs: int, device: torch.device) -> "Moments":
        """No row yet; ``inputs`` is c, ``outputs`` d."""
        gram, cross, ratio = (
            torch.zeros(shape, dtype=torch.float64, device=device)
            for shape in ((inputs, inputs), (inputs, outputs), ())
        )
        return cls(gram, cross, ratio)

    def add(self, inputs: Tensor, states: Tensor, targets: Tensor, weights: Tensor) -> None:
        """Add the rows of some windows; products are made in float32, sums in float64.

        Args:
            inputs: ``b x L x c``, without the ones; ``c`` 0 where no projection is changed.
            states: ``b x L x d``, ``h``.
            targets: ``b x L x d``, ``y``.
            weights: ``b x L``, ``w``.
        """
        u, weighted = weigh_rows(inputs, weights, ones=self.gram.shape[0] > inputs.shape[-1])
        y, h = targets.float().flatten(0, 1), states.float().flatten(0, 1)
        self.gram += weighted.T @ u
        self.cross += weighted.T @ (y - h)
        self.ratio += (y.abs().sum(-1) / h.abs().sum(-1).clamp_min(1e-12)).double().sum()
        self.tokens += len(y)

    def narrowed(self, columns: Tensor, dense: Tensor, kept: Tensor, scale: float) -> "Moments":
        """The moments where only some inputs of the projection are left, and it has other weights for these.

        With ``V`` in the place of ``W`` the residual grows by ``s (W u - V u_K)``: ``G_KK`` and
        ``C_K + s (G_K: W^T - G_KK V^T)``. No state passes again; ``ratio``, which is of states, stays.

        Args:
            columns: ``k`` indices, the inputs that stay.
            dense: ``d x c``, ``W``.
            kept: ``d x k``, ``V``.
            scale: ``s``.
        """
        rows = self.gram.index_select(0, columns)
        gram = rows.index_select(1, columns)
        cross = self.cross.index_select(0, columns) + scale * (rows @ dense.T - gram @ kept.T)
        return Moments(gram, cross, self.ratio, self.tokens)
