"""What a space of strategies must offer the search, the profile and the answers: one protocol for each kind of user."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Generator, Tensor

from unicuco_plugin.errors import quoted

__all__ = ["Coordinates", "Feasible", "Flips", "Moves", "Named", "Refining", "Sketches", "Space", "check_key"]


class Named(Protocol):
    """Which units exist, and how strategies over them are written and read."""

    @property
    def name(self) -> str:
        """Its name, as plugins list it."""
        ...

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the ``d`` units."""
        ...

    @property
    def params(self) -> Tensor:
        """Prunable weights of each unit, ``d``, float64."""
        ...

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Least and largest share of each unit; empty where the space itself knows them."""
        ...

    @property
    def needed(self) -> tuple[tuple[int, ...], ...]:
        """Groups of unit indices, of which one unit each has to stay; empty where any may go, or units go in part."""
        ...

    def to_units(self, x: Tensor) -> dict[str, Any]:
        """Name the units that lose something in one strategy, ``d``, with the share, or the scheme that stores them."""
        ...

    def from_units(self, units: Mapping[str, Any]) -> Tensor:
        """The inverse of ``to_units``."""
        ...

    def key(self, x: Tensor) -> str:
        """The canonical identity of one strategy, short and readable."""
        ...

    def parse(self, key: str) -> Tensor:
        """The inverse of ``key``, ``d``."""
        ...


class Feasible(Protocol):
    """Which strategies exist at a sparsity, and how scores become one of them."""

    @property
    def smooth(self) -> bool:
        """Whether any sparsity can be met, not only ``budgets``, and ``project`` has a gradient."""
        ...

    @property
    def stepped(self) -> bool:
        """Whether a smooth space's shares come in whole steps, so that its gradient does not see all moves."""
        ...

    @property
    def physical(self) -> bool:
        """Whether what is removed leaves the checkpoint, so that requests can be made in parameters and bytes."""
        ...

    @property
    def budgets(self) -> tuple[float, ...]:
        """The sparsities worth one strategy each, ascending; answers exist up to the last."""
        ...

    @property
    def most(self) -> float:
        """The largest sparsity that can be met."""
        ...

    def reaching(self, sparsity: float) -> float:
        """The sparsity that meets a request for a share: the least feasible one that reaches it.

        Raises:
            RequestError: If none does; the message says what can be requested.
        """
        ...

    def sparsity(self, x: Tensor) -> Tensor:
        """The share of prunable weights removed, ``p x d`` to ``p``; differentiable."""
        ...

    def relax(self, logits: Tensor) -> Tensor:
        """Turn StratNet's output into strategies that the surrogate knows, ``p x d`` to ``p x d``, with a gradient."""
        ...

    def project(self, scores: Tensor, sparsity: Any) -> Tensor:  # noqa: ANN401 - a float, or also a tensor
        """The feasible strategies that follow the scores and meet a budget exactly, ``p x d`` to ``p x d``.

        Where the space is smooth it is differentiable. One that says ``mixes_budgets = True``, which is no part of this
        protocol, is also given a tensor of ``p`` budgets, here if it is smooth and in ``moved``, and rows of several
        budgets in ``neighbours``; any other one budget at a time, a float.
        """
        ...


class Moves(Protocol):
    """Where a search begins, and which strategies it can move to from one."""

    def first(self, count: int, generator: Generator, most: float = 1.0) -> Tensor:
        """Distinct strategies to measure before a surrogate exists, at most ``count x d``, mostly up to ``most``."""
        ...

    def random(self, count: int, sparsity: float, generator: Generator) -> Tensor:
        """Uniformly random strategies at one budget, ``count x d``."""
        ...

    def near(self, X: Tensor, sparsity: float) -> Tensor:
        """Which of ``n x d`` strategies can stand for a budget, ``n`` bools."""
        ...

    def moved(self, X: Tensor, sparsity: Any) -> Tensor:  # noqa: ANN401 - as in project
        """Bring strategies near a budget exactly onto it, ``n x d`` to ``n x d``; budgets as in ``project``."""
        ...

    def neighbours(self, x: Tensor) -> Tensor:
        """All strategies one step away from each row at the same budget, ``p x d`` to ``p x moves x d``."""
        ...

    def scores(self, x: Tensor) -> Tensor:
        """Scores whose projection onto a strategy's own budget is that strategy, ``p x d`` to ``p x d``."""
        ...


@runtime_checkable
class Flips(Protocol):
    """What a space of whole units can offer besides, so that descents need not list its moves as strategies."""

    def flips(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The moves that ``neighbours`` makes of ``p x d`` strategies of any budgets, as units that change sides.

        Returns:
            ``m`` numbers of rows, and ``m x f`` units, the last ones ``d`` where a move flips fewer.
        """
        ...


@runtime_checkable
class Sketches(Protocol):
    """What a space whose moves are costly can offer besides, so that descents make only the most promising ones."""

    def sketch(self, x: Tensor) -> Tensor:
        """About what ``neighbours`` makes of ``p x d`` strategies, in its order, ``p x moves x d``."""
        ...

    def neighbours(self, x: Tensor, only: Tensor | None = None) -> Tensor:
        """The moves of these numbers, ``p x some``, or all: ``p x some x d``."""
        ...


class Coordinates(Protocol):
    """The coordinates in which the surrogate compares strategies."""

    @property
    def features(self) -> Tensor:
        """The ``d x e`` map from strategies to these coordinates."""
        ...

    @property
    def scales(self) -> tuple[int, ...]:
        """The index, from 0, of each of the ``e`` coordinates' length scale; empty where each has its own."""
        ...


@runtime_checkable
class Refining(Protocol):
    """A space that lowers a function of its strategies better than a gradient or single moves do; it need not."""

    @property
    def finest(self) -> float:
        """The least share that two strategies differ by: a strategy that saves so little more meets a budget best."""
        ...

    @property
    def longest(self) -> int:
        """The most steps that any unit has."""
        ...

    def refined(self, value: Callable[[Tensor], Tensor], x: Tensor, budget: float) -> Tensor:
        """Where each of ``p x d`` strategies at a budget leads, ``p x d``.

        Args:
            value: ``q x d`` strategies to ``q`` numbers, logarithms of nats per token.
            x: The strategies.
            budget: Share to save, as ``project`` meets it.
        """
        ...

    def costs_at(self, value: Callable[[Tensor], Tensor], x: Tensor, reach: int = ...) -> Tensor:
        """What each other choice of one unit costs where all others stay at ``x``, ``d``, nats per token, ``d x l``."""
        ...

    def spent(self, costs: Tensor, budgets: Sequence[float]) -> Tensor:
        """Strategies of nearly the least sum of such costs at ``t`` budgets, ``t x d``, the same in any company.

        Args:
            costs: ``d x l``, or ``t x d x l`` of each budget.
            budgets: ``t`` shares.
        """
        ...


class Space(Named, Feasible, Moves, Coordinates, Protocol):
    """Which units exist, which values they may take, and how scores become a feasible strategy.

    Strategies are rows of float64 tensors ``p x d`` with entries in [0, 1], the share removed of each of ``d`` units.
    What strategies do to a model is said by :class:`~unicuco_plugin.traits.SpaceTraits`, not here.
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
