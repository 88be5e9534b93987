r"""Corrections by name: what is solved from the moments at one cut. Symbols are those of :mod:`.moments`.

The model adds ``s W u`` to its states, with ``W`` the projection (``d x c``, its bias as last column) and ``s`` the
family's factor, 1 for most.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from unicuco_plugin.compensation.moments import Moments, Weigh, equally, relatively
from unicuco_plugin.models.tensors.sending import sent

__all__ = ["METHODS", "Compensation", "Correction", "Cut", "bias", "linear", "ridge", "scale"]

# Multiples of G's mean diagonal, strongest first; the first that the next one is not better than on held-out windows is
# taken, since solving is most of what a correction costs in a search.
_RIDGES = (10.0, 1.0, 3e-1, 1e-1, 3e-2, 1e-2, 1e-3, 1e-4)
# Only makes the plain regression solvable.
_JITTER = 1e-7


@dataclass(frozen=True)
class Cut:
    """What is known of one cut.

    Attributes:
        weight: ``W``, float64.
        scale: ``s``.
        fit: Moments of the windows to solve from.
        held: Those of windows to choose by.
    """

    weight: Tensor
    scale: float
    fit: Moments
    held: Moments

    @property
    def nbytes(self) -> int:
        """What keeping it takes."""
        moments = (tensor for one in (self.fit, self.held) for tensor in (one.gram, one.cross))
        return self.weight.nbytes + sum(tensor.nbytes for tensor in moments)

    def sent(self, device: torch.device | str) -> "Cut":
        """The same on a device."""
        fit, held = (
            Moments(sent(one.gram, device), sent(one.cross, device), sent(one.ratio, device), one.tokens)
            for one in (self.fit, self.held)
        )
        return Cut(sent(self.weight, device), self.scale, fit, held)

    def narrowed(self, columns: Tensor, weight: Tensor) -> "Cut":
        """The same where only some inputs of the projection are left.

        Args:
            columns: ``k`` indices of these.
            weight: ``d x k``, what is left of ``W``.
        """
        fit, held = (one.narrowed(columns, self.weight, weight, self.scale) for one in (self.fit, self.held))
        return Cut(weight, self.scale, fit, held)


@dataclass(frozen=True)
class Correction:
    """What to change.

    Attributes:
        change: ``d x c``, is added to ``W``; None for nothing.
        gain: Factor of the states that leave the block.
    """

    change: Tensor | None = None
    gain: float = 1.0


@dataclass(frozen=True)
class Compensation:
    """A method.

    Attributes:
        solve: Finds a correction; None for a method that never corrects.
        weigh: Weighs the rows of the moments.
        stream: Whether it multiplies the states, which all that was written before takes part in, and changes no single
            projection.
        biased: Whether it changes the projection's bias alone, the last column of ``W``, which must then have one.
    """

    solve: Callable[[Cut], Correction] | None
    weigh: Weigh = equally
    stream: bool = False
    biased: bool = False


def bias(cut: Cut) -> Correction:
    r"""What is missing on average, ``sum_t w r / (s sum_t w)``, added to the bias; the last input is a one.

    Source:
        FLAP (An et al. 2024), of what the parts that go would have given: ``W_out[:, gone] E[u_gone]``.
    """
    change = torch.zeros_like(cut.weight)
    change[:, -1] = cut.fit.cross[-1] / (cut.scale * cut.fit.gram[-1, -1])
    return Correction(change)


def scale(cut: Cut) -> Correction:
    """``E[||y||_1 / ||h||_1]``.

    Source:
        Prune&Comp (2025), magnitude compensation.
    """
    return Correction(gain=float(cut.fit.ratio) / cut.fit.tokens)


def linear(cut: Cut) -> Correction:
    r"""``W' = T^T W`` with ``T = argmin sum_t ||T^T m - (y - (h - m))||^2`` and ``m = s W u``.

    In moments ``T = I + (s^2 W G W^T)^{-1} s W C``.

    Source:
        ReplaceMe (Shopkhoev et al. 2025), least squares.
    """
    W, s = cut.weight, cut.scale
    T_less_one = _solve(s**2 * W @ cut.fit.gram @ W.T, s * W @ cut.fit.cross, _JITTER)
    return Correction(T_less_one.T @ W)


def ridge(cut: Cut) -> Correction:
    r"""``argmin_D sum_t w ||s D u - r||^2 + lambda ||s D||^2``: ``s D^T = (G + lambda I)^{-1} C``.

    ``lambda`` falls as long as such an error on held-out windows does.

    Source:
        Derived in docs/compensation.md.
    """
    least, best = math.inf, torch.zeros_like(cut.fit.cross)
    for share in _RIDGES:
        factor, failed = torch.linalg.cholesky_ex(_ridged(cut.fit.gram, share))
        if failed:
            break
        B = torch.cholesky_solve(cut.fit.cross, factor)
        error = float((B * (cut.held.gram @ B - 2.0 * cut.held.cross)).sum())
        if not error < least:
            break
        least, best = error, B
    return Correction(best.T / cut.scale)


def _solve(gram: Tensor, cross: Tensor, share: float) -> Tensor:
    """``(gram + share * mean diagonal * I)^{-1} cross``."""
    return torch.linalg.solve(_ridged(gram, share), cross)


def _ridged(gram: Tensor, share: float) -> Tensor:
    ridged = gram.clone()
    ridged.diagonal().add_(share * gram.diagonal().mean().clamp_min(1e-30))
    return ridged


METHODS: Mapping[str, Compensation] = {
    "bias": Compensation(bias, biased=True),
    "linear": Compensation(linear),
    "none": Compensation(None),
    "ridge": Compensation(ridge, relatively),
    "scale": Compensation(scale, stream=True),
}
