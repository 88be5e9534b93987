"""What is known of one cut, and what comes of it. Symbols are those of :mod:`.moments`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from unicuco_plugin.compensation.moments import Moments
from unicuco_plugin.models.tensors.sending import sent

__all__ = ["Correction", "Crosses", "Cut", "EachAlone", "Widths"]

Crosses: TypeAlias = tuple[Tensor, Tensor]
"""``C``, ``c x d``, of the windows to solve from and of those to choose by."""


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


class Widths(Protocol):
    """A module that may get many widths, with all modules behind it: what they have in common."""

    @property
    def weight(self) -> Tensor:
        """``W`` of the whole module, ``d x c``, float64."""
        ...

    @property
    def nbytes(self) -> int:
        """What keeping it takes."""
        ...

    def sent(self, device: torch.device | str) -> "Widths":
        """The same on a device."""
        ...

    def before(self, crosses: Crosses) -> "Widths":
        """The same where the next modules go whole.

        Args:
            crosses: Of what these gave.
        """
        ...

    def fit(self, columns: Tensor, kept: Tensor) -> Tensor:
        """The corrected projection where only some inputs are left.

        Args:
            columns: ``k`` indices of these.
            kept: ``d x k``, what is left of ``W``.
        """
        ...


@dataclass(frozen=True)
class EachAlone:
    """Every width from moments of its own.

    Attributes:
        cut: Of the whole module.
        solve: Finds a correction.
    """

    cut: Cut
    solve: Callable[[Cut], Correction]

    @property
    def weight(self) -> Tensor:
        """See ``Widths``."""
        return self.cut.weight

    @property
    def nbytes(self) -> int:
        """See ``Widths``."""
        return self.cut.nbytes

    def sent(self, device: torch.device | str) -> "EachAlone":
        """See ``Widths``."""
        return EachAlone(self.cut.sent(device), self.solve)

    def before(self, crosses: Crosses) -> "EachAlone":
        """See ``Widths``."""
        fit, held = (replace(one, cross=C) for one, C in zip((self.cut.fit, self.cut.held), crosses, strict=True))
        return EachAlone(replace(self.cut, fit=fit, held=held), self.solve)

    def fit(self, columns: Tensor, kept: Tensor) -> Tensor:
        """See ``Widths``."""
        change = self.solve(self.cut.narrowed(columns, kept)).change
        return kept if change is None else kept + change
