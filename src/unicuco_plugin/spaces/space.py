"""What a space of strategies must offer the search, the profile and the answers: one protocol for each kind of user."""

from collections.abc import Mapping
from typing import Protocol

from torch import Generator, Tensor

from unicuco_plugin.errors import quoted

__all__ = ["Coordinates", "Feasible", "Moves", "Named", "Space", "check_key"]


class Named(Protocol):
    """Which units there are, and how strategies over them are written down and read again."""

    @property
    def name(self) -> str:
        """As plugins list it."""
        ...

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the ``d`` units."""
        ...

    @property
    def params(self) -> Tensor:
        """``d`` prunable weights, float64."""
        ...

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Least and largest share of each unit; empty where the space knows them by itself."""
        ...

    @property
    def needed(self) -> tuple[tuple[int, ...], ...]:
        """Groups of indices of units: of each one has to stay. Empty where any one will do, or units go in part."""
        ...

    def to_units(self, x: Tensor) -> dict[str, float]:
        """Name the units that lose something in one strategy, ``d``."""
        ...

    def from_units(self, units: Mapping[str, float]) -> Tensor:
        """The inverse of ``to_units``."""
        ...

    def key(self, x: Tensor) -> str:
        """The canonical identity of one strategy, short and readable."""
        ...

    def parse(self, key: str) -> Tensor:
        """The inverse of ``key``, ``d``."""
        ...


class Feasible(Protocol):
    """Which strategies there are at a sparsity, and how scores become one of them."""

    @property
    def smooth(self) -> bool:
        """Whether any sparsity can be met, not only ``budgets``, and ``project`` has a gradient."""
        ...

    @property
    def stepped(self) -> bool:
        """Whether the shares of a smooth space come in whole steps, so that its gradient does not see all moves."""
        ...

    @property
    def physical(self) -> bool:
        """Whether what is removed leaves the checkpoint, so that requests can be made in parameters and bytes."""
        ...

    @property
    def budgets(self) -> tuple[float, ...]:
        """The sparsities worth one strategy each, rising; an answer exists up to the last."""
        ...

    @property
    def most(self) -> float:
        """The largest sparsity that can be met."""
        ...

    def reaching(self, sparsity: float) -> float:
        """The sparsity that a request for a share comes down to: the least that can be met and reaches it.

        Raises:
            RequestError: If none does; the message says what can be asked.
        """
        ...

    def sparsity(self, x: Tensor) -> Tensor:
        """Share of prunable weights removed, ``p x d`` to ``p``; differentiable."""
        ...

    def relax(self, logits: Tensor) -> Tensor:
        """Turn StratNet's output into strategies the surrogate knows, ``p x d`` to ``p x d``, with a gradient."""
        ...

    def project(self, scores: Tensor, sparsity: float) -> Tensor:
        """The feasible strategies that follow the scores and meet a budget exactly, ``p x d`` to ``p x d``.

        Differentiable where the space is smooth.
        """
        ...


class Moves(Protocol):
    """Where a search begins, and where it goes from a strategy."""

    def first(self, count: int, generator: Generator, most: float = 1.0) -> Tensor:
        """Distinct strategies to measure before there is a surrogate, ``count x d`` or fewer, mostly up to ``most``."""
        ...

    def random(self, count: int, sparsity: float, generator: Generator) -> Tensor:
        """Uniformly random strategies at one budget, ``count x d``."""
        ...

    def near(self, X: Tensor, sparsity: float) -> Tensor:
        """Which of ``n x d`` strategies can stand for a budget, ``n`` bools."""
        ...

    def moved(self, X: Tensor, sparsity: float) -> Tensor:
        """Bring strategies near a budget exactly onto it, ``n x d`` to ``n x d``."""
        ...

    def neighbours(self, x: Tensor) -> Tensor:
        """All strategies one step from each row at the same budget, ``p x d`` to ``p x moves x d``."""
        ...

    def scores(self, x: Tensor) -> Tensor:
        """Scores whose projection onto a strategy's own budget is that strategy, ``p x d`` to ``p x d``."""
        ...


class Coordinates(Protocol):
    """In what the surrogate compares strategies."""

    @property
    def features(self) -> Tensor:
        """``d x e`` map to the coordinates in which the surrogate compares strategies."""
        ...

    @property
    def scales(self) -> tuple[int, ...]:
        """For each of the ``e`` coordinates which length scale it has, from 0; empty where each has its own."""
        ...


class Space(Named, Feasible, Moves, Coordinates, Protocol):
    """Which units there are, which values they may take, and how scores become a feasible strategy.

    Strategies are rows of float64 tensors ``p x d`` with entries in [0, 1], the share removed of each of ``d`` units.
    What its strategies do to a model is not said here: :class:`~unicuco_plugin.traits.SpaceTraits`.
    """


def check_key(space: Named, key: str) -> None:
    """Refuse a key that the space did not write, or of a strategy that removes nothing.

    Raises:
        ValueError: If it is one.
    """
    try:
        x = space.parse(key)
        known = space.key(x) == key
    except (ValueError, IndexError, OverflowError, RuntimeError):
        known = False
    if not known or not bool(((x >= 0.0) & (x <= 1.0)).all()) or not x.any():
        raise ValueError(f"strategy must be a key of the space {space.name} that removes something, got {quoted(key)}")
