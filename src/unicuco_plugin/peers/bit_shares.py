"""Peers of bits that add up scores of single units or give all the same: uniform bits, and knapsacks."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from unicuco_plugin.objectives.units import UnitsEvaluator
from unicuco_plugin.peers.bits import BitsProblem, bits_problem, score_once
from unicuco_plugin.peers.peer import PeerRequest, PeerResult, choose_space, room_for
from unicuco_plugin.peers.rounds import Rounds
from unicuco_plugin.progress import Progress
from unicuco_plugin.schemes import DENSE_BITS
from unicuco_plugin.scores.output_changes import changes_tokens, output_changes
from unicuco_plugin.scores.single_units import (
    at_least,
    find_neighbours,
    linear_schemes,
    measure_alone,
    measure_uniform,
    unit_costs,
    unit_losses,
)

__all__ = ["GradientKnapsack", "Knapsack", "KnapsackNarrow", "KnapsackWide", "UniformBits"]

# Of a budget's bits, what one scheme for all may leave unspent.
_UNSPENT = 0.02


@dataclass(frozen=True)
class UniformBits:
    """One scheme for all units; between two schemes, both, mixed as evenly as they come."""

    spaces: ClassVar[tuple[str, ...]] = ("precision",)
    takes: ClassVar[frozenset[str]] = frozenset({"levels"})
    serves_all: ClassVar[bool] = True

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Find schemes; see :class:`Peer`."""
        choose_space(self, request)
        problem, started = bits_problem(request), time.perf_counter()
        space, bits = problem.space, 1.0 - request.sparsity
        for scheme, x in space.uniform().items():
            left = 1.0 - space.sparsity(x[None]).item()
            if (1.0 - _UNSPENT) * bits <= left <= bits:
                return problem.result(x, 0, time.perf_counter() - started, {"scheme": scheme})
        [x] = space.project(torch.zeros(1, len(space.units), dtype=torch.float64), request.sparsity)
        return problem.result(x, 0, time.perf_counter() - started, {})


@dataclass(frozen=True)
class Knapsack:
    """Divergences measured one unit at a time, taken to add up: the exact solution of the knapsack.

    Attributes:
        others: Where all other units stand meanwhile: in 16 bits (``dense``), or at the wider or the narrower of the
            two neighbouring schemes whose divergences are on either side of half a nat.
        every: Whether a unit is measured in every scheme that it is offered; else in the other one of those two (the
            narrower one where others stand in 16 bits), and its cost goes along its schemes as the database's losses.
    """

    others: Literal["dense", "wide", "narrow"] = "dense"
    every: bool = True

    spaces: ClassVar[tuple[str, ...]] = ("precision",)
    takes: ClassVar[frozenset[str]] = frozenset({"windows", "levels", "journal"})
    serves_all: ClassVar[bool] = True

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Measure and solve; see :class:`Peer`. A journal makes it resume, and serves every budget.

        Raises:
            JournalError: If the journal is in use, damaged, or belongs to other arguments.
        """
        choose_space(self, request)
        problem = bits_problem(request)
        header = problem.header("knapsack", others=self.others, every=self.every)
        with Rounds(request.journal, header) as rounds:
            measured = _Measured(problem, rounds)
            costs = self._costs(problem, measured)
        return problem.cheapest(costs, measured.tokens, measured.seconds, {"costs": costs.tolist()})

    def _costs(self, problem: BitsProblem, measure: "_Measured") -> Tensor:
        space = problem.space
        uniform, divergences = measure_uniform(space, measure)
        wide, narrow = find_neighbours(divergences)
        stand, alone = {"dense": (0, narrow), "wide": (wide, narrow), "narrow": (narrow, wide)}[self.others]
        if not self.every:
            D = measure_alone(measure, "units", uniform[stand], uniform[alone])
            harm = D - divergences[stand] if stand < alone else divergences[stand] - D
            low, high = (space.places(uniform[place]) for place in sorted((stand, alone)))
            losses = unit_losses(problem.levels, space, problem.units)
            return unit_costs(at_least(harm), losses, low, high)
        costs = torch.full((len(space.units), max(map(len, space.choices))), torch.inf, dtype=torch.float64)
        for place in range(costs.shape[1]):
            there = torch.tensor([place < len(row) for row in space.choices])
            shares = [1.0 - row[min(place, len(row) - 1)][1] / DENSE_BITS for row in space.choices]
            own = torch.tensor(shares, dtype=torch.float64)
            if torch.equal(own, uniform[stand]):
                costs[there, place] = divergences[stand]
            else:
                costs[there, place] = measure_alone(measure, f"units at {place}", uniform[stand], own)[there]
        return costs


@dataclass(frozen=True)
class KnapsackWide(Knapsack):
    """The knapsack of harms: what a unit adds that alone has the narrower of two schemes."""

    others: Literal["dense", "wide", "narrow"] = "wide"
    every: bool = False


@dataclass(frozen=True)
class KnapsackNarrow(Knapsack):
    """The knapsack of gains: what a unit saves that alone has the wider of two schemes."""

    others: Literal["dense", "wide", "narrow"] = "narrow"
    every: bool = False


@dataclass(frozen=True)
class GradientKnapsack:
    """The knapsack of squared gradients times squared changes, added up over a unit's linears and all positions.

    Source:
        ModelOpt's ``auto_quantize`` with its default method, ``gradient``.
    """

    spaces: ClassVar[tuple[str, ...]] = ("precision",)
    takes: ClassVar[frozenset[str]] = frozenset({"windows", "levels", "journal"})
    serves_all: ClassVar[bool] = True

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Score and solve; see :class:`Peer`. A journal keeps the scores, which serve every budget.

        Raises:
            JournalError: If the journal is in use, damaged, or belongs to other arguments.
        """

        def score(problem: BitsProblem) -> tuple[dict[str, dict[str, float]], int]:
            offered = linear_schemes(problem.space, problem.units)
            found = output_changes(request.decoder, problem.levels, offered, request.windows, progress=request.progress)
            return found, changes_tokens(offered, request.windows)

        return score_once(self, request, score)


class _Measured:
    """Divergences of strategies, part by part in a journal; adds up what they took."""

    def __init__(self, problem: BitsProblem, rounds: Rounds) -> None:
        request = problem.request
        self._problem, self._rounds, self._room = problem, rounds, room_for(request)
        self._evaluator = UnitsEvaluator(
            request.decoder,
            problem.space.name,
            request.windows,
            levels=problem.levels,
            batch_windows=request.batch_windows,
        )
        self._done = 0
        self.tokens, self.seconds = 0, 0.0

    def __call__(self, name: str, rows: Tensor) -> Sequence[float]:
        self._problem.request.progress(Progress("measuring single units", self._done, self._done + 1, self.tokens))
        step = self._rounds.once(self._done, lambda: self._measure(rows))
        self._done += 1
        self.tokens, self.seconds = self.tokens + step["tokens"], self.seconds + step["seconds"]
        found: list[float] = step["divergences"]
        return found

    def _measure(self, rows: Tensor) -> dict[str, object]:
        started = time.perf_counter()
        space = self._problem.space
        found = self._room.measure(self._evaluator.evaluate, [space.to_units(row) for row in rows])
        return {
            "divergences": [one.value for one in found],
            "tokens": sum(one.tokens for one in found),
            "seconds": time.perf_counter() - started,
        }
