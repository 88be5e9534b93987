r"""Corrections by name: what is solved from the moments at one cut. Symbols are those of :mod:`.moments`.

The model adds ``s W u`` to its states, with ``W`` the projection (``d x c``, its bias as last column) and ``s`` the
family's factor, 1 for most.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from unicuco_plugin.compensation.cut import Correction, Cut, EachAlone, Widths
from unicuco_plugin.compensation.moments import Weigh, equally, relatively
from unicuco_plugin.compensation.penalised import RidgeWidths, find_ridge, mean_diagonal

__all__ = ["METHODS", "Compensation", "bias", "linear", "ridge", "scale"]

# Only makes the plain regression solvable.
_JITTER = 1e-7


@dataclass(frozen=True)
class Compensation:
    """A method.

    Attributes:
        solve: Finds a correction; None for a method that never corrects.
        weigh: Weighs the rows of the moments by states.
        stream: Whether it multiplies the states, which all that was written before takes part in, and changes no single
            projection.
        biased: Whether it changes the projection's bias alone, the last column of ``W``, which must then have one.
        sequential: Whether it is solved on what the model makes of the text once it is corrected so far: for one model,
            and not for the many of a search.
        widths: What the many widths of one module share, made from the whole module's moments, whatever its ``C``; None
            solves each from its own.
    """

    solve: Callable[[Cut], Correction] | None
    weigh: Weigh = equally
    stream: bool = False
    biased: bool = False
    sequential: bool = False
    widths: Callable[[Cut], Widths] | None = None

    def narrowing(self, cut: Cut) -> Widths:
        """What narrower modules are solved by.

        Args:
            cut: Of the whole module; what goes behind it is told later.
        """
        if self.widths is not None:
            return self.widths(cut)
        return EachAlone(cut, self.solve or (lambda _: Correction()))


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
    none = torch.zeros_like(cut.weight)
    fit, held = ((one.gram, one.cross) for one in (cut.fit, cut.held))
    found = find_ridge(fit, held, none.T, mean_diagonal(cut.fit.gram))
    return Correction(none if found is None else found.solution.T / cut.scale)


def _solve(gram: Tensor, cross: Tensor, share: float) -> Tensor:
    """``(gram + share * mean diagonal * I)^{-1} cross``."""
    ridged = gram.clone()
    ridged.diagonal().add_(share * gram.diagonal().mean().clamp_min(1e-30))
    return torch.linalg.solve(ridged, cross)


METHODS: Mapping[str, Compensation] = {
    "bias": Compensation(bias, biased=True),
    "linear": Compensation(linear),
    "none": Compensation(None),
    "ridge": Compensation(ridge, relatively, widths=RidgeWidths.of),
    "scale": Compensation(scale, stream=True),
    "sequential": Compensation(ridge, relatively, sequential=True),
}
