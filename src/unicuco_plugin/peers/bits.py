"""What peers of bits share: the space over a database's schemes, and strategies of it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unicuco_plugin.costs.offered import find_offered
from unicuco_plugin.errors import RequestError
from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.peers.peer import Peer, PeerRequest, PeerResult, choose_space
from unicuco_plugin.peers.rounds import Rounds
from unicuco_plugin.scores.single_units import unit_scores
from unicuco_plugin.spaces.precision import PrecisionSpace
from unicuco_plugin.texts.calibration import calibration_hash

__all__ = ["BitsProblem", "bits_problem", "score_once"]


@dataclass(frozen=True)
class BitsProblem:
    """One request over the units of one model.

    Attributes:
        request: As it was asked.
        levels: The database.
        units: Unit → its linears.
        space: Over the units; it meets every budget to the bit.
    """

    request: PeerRequest
    levels: SchemeLevels
    units: Mapping[str, tuple[str, ...]]
    space: PrecisionSpace

    def result(self, x: Tensor, tokens: int, seconds: float, details: Mapping[str, object]) -> PeerResult:
        """The result of a strategy ``d``."""
        units = self.space.to_units(x)
        return PeerResult(self.space.name, units, self.space.sparsity(x[None]).item(), tokens, seconds, details)

    def cheapest(self, costs: Tensor, tokens: int, seconds: float, details: Mapping[str, object]) -> PeerResult:
        """The result of least cost ``d x l`` at the request's budget: a knapsack, solved exactly."""
        # Costs of a unit are compared with each other alone, and its cheapest choice may cost nothing.
        costs = costs - costs.amin(1, keepdim=True)
        started = time.perf_counter()
        [x] = self.space.cheapest(costs, [self.request.sparsity])
        return self.result(x, tokens, seconds + time.perf_counter() - started, details)

    def table(self, scores: Mapping[str, Mapping[str, float]]) -> Tensor:
        """Scores of every linear in every scheme as costs of units, ``d x l``; 0 where a unit is left alone."""
        return unit_scores(self.space, self.units, scores)

    def header(self, method: str, **identity: object) -> dict[str, object]:
        """What determines the steps of a journal."""
        if self.request.journal is None:
            return {}
        return {
            "method": method,
            "model": str(fingerprint(self.request.decoder.model)),
            "windows": calibration_hash(self.request.windows),
            "levels": self.levels.record.identity,
            **identity,
        }


def bits_problem(request: PeerRequest) -> BitsProblem:
    """Read a request for mean bits, which is a share of 16 bits to save.

    Raises:
        RequestError: If there is no database of schemes, or its narrowest schemes do not reach the budget.
        LevelsError: If it offers the model's units no scheme.
    """
    if not isinstance(request.levels, SchemeLevels):
        raise RequestError("strategies of bits are made from a database of schemes: unicuco levels build --schemes")
    offered = find_offered(request.decoder, request.levels)
    table = offered.costs.table
    space = PrecisionSpace(offered.costs.units, table.unit_params, table.choices)
    space.reaching(request.sparsity)
    return BitsProblem(request, request.levels, offered.units, space)


def score_once(
    method: Peer, request: PeerRequest, score: Callable[[BitsProblem], tuple[Mapping[str, Mapping[str, float]], int]]
) -> PeerResult:
    """Score linears once for all budgets of a journal, add up the scores of a unit, and solve the knapsack.

    Args:
        method: The peer.
        request: Its request.
        score: From a problem to linear → scheme → score, lower is better, and the evaluation tokens that this took.
    """
    choose_space(method, request)
    problem = bits_problem(request)

    def make() -> dict[str, Any]:
        started = time.perf_counter()
        found, tokens = score(problem)
        scores = {name: dict(row) for name, row in found.items()}
        return {"scores": scores, "tokens": tokens, "seconds": time.perf_counter() - started}

    with Rounds(request.journal, problem.header(type(method).__name__)) as rounds:
        step = rounds.once(0, make)
    details = {"scores": step["scores"]}
    return problem.cheapest(problem.table(step["scores"]), step["tokens"], step["seconds"], details)
