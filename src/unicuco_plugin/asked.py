"""What a request asks of costs, held against candidates: which limits one exceeds, and by how much."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from unicuco_plugin.costs.latency import LATENCY, TIME
from unicuco_plugin.costs.model import CostModel, TableCosts
from unicuco_plugin.costs.untimed import why_untimed
from unicuco_plugin.errors import RequestError, round_down, round_up
from unicuco_plugin.policy.contest import Candidate
from unicuco_plugin.request import LIMITS, Request
from unicuco_plugin.spaces.space import Space
from unicuco_plugin.traits import traits_of

__all__ = ["Asked"]

# Mean bits and sparsities are quotients of whole numbers.
_SLACK = 1e-9
SPARSITY = "sparsity"


@dataclass(frozen=True)
class Asked:
    """A request's limits on costs, held against candidates of one profile.

    Attributes:
        request: What is asked.
        space: Of the strategies.
        costs: What they cost.
    """

    request: Request
    space: Space
    costs: CostModel

    def split(self) -> tuple[float, dict[str, tuple[str, float]]]:
        """What the request comes down to: the least budget that shares ask for, and limits whose cost is to be counted.

        Returns:
            0 where nothing asks for a share; and field → cost and the most of it.

        Raises:
            RequestError: If the profile does not know a cost, or no strategy lowers it.
        """
        floor, counted = 0.0, {}
        asked = dict(self.request.limits)
        if self.request.sparsity is not None:
            asked = {SPARSITY: (self.costs.objective, 1.0 - self._removable(self.request.sparsity))} | asked
        for kind, (cost, limit) in asked.items():
            timed = cost in (LATENCY, TIME)
            if timed and cost not in self.costs.names and isinstance(self.costs, TableCosts):
                raise RequestError(f"{kind} cannot be asked of this profile: {why_untimed(self.costs)}")
            if cost not in self.costs.names:
                raise RequestError(
                    f"{kind} cannot be asked of this profile, which knows {', '.join(self.costs.names)} of a "
                    f"strategy; ask for {self._instead} or max_divergence"
                )
            share = self.costs.share(cost, limit)
            if share is not None:  # a sparsity as it is written, which is what budgets are listed by
                floor = max(floor, self.space.reaching(share if kind != SPARSITY else self.request.sparsity or share))
                continue
            if not self.space.physical and not timed:  # times count blocks that leave
                raise RequestError(
                    f"{kind} cannot be asked of space {self.space.name!r}: zeros in a dense file do not shrink "
                    "it; ask for sparsity or max_divergence"
                )
            counted[kind] = (cost, limit)
        return floor, counted

    @property
    def _instead(self) -> str:
        return "bits" if "bits" in self.costs.names else "sparsity"

    def _removable(self, sparsity: float) -> float:
        """Refuse to remove a share where bits are what is counted."""
        if "bits" in self.costs.names:
            why = "counts bits" if traits_of(self.space.name).whole else "removes no weight"
            raise RequestError(
                f"sparsity cannot be asked of space {self.space.name!r}, which {why}; ask for {self._instead} or "
                f"max_bytes, got {sparsity:.6g}"
            )
        return sparsity

    def cost(self, kind: str, candidate: Candidate) -> float:
        """What a candidate costs of what a field limits; of ``sparsity`` the share that is left."""
        name = self.costs.objective if kind == SPARSITY else LIMITS[kind].cost
        return self.costs.of(name, candidate.x[None]).item()

    def _most(self, kind: str) -> float:
        return 1.0 - (self.request.sparsity or 0.0) if kind == SPARSITY else self.request.limits[kind][1]

    def exceeded(self, candidate: Candidate, kinds: Collection[str] = (*LIMITS, SPARSITY)) -> dict[str, float]:
        """Fields whose limit it exceeds, and what it costs of each."""
        found = {kind: self.cost(kind, candidate) for kind in self.request.kinds if kind in kinds}
        return {
            kind: cost
            for kind, cost in found.items()
            if cost - self._most(kind) > (0.0 if isinstance(self._most(kind), int) else _SLACK)
        }

    def over(self, rates: Mapping[str, float], candidate: Candidate) -> float:
        """By which share of all prunable weights too much is left; at most 0 where all limits are kept.

        Args:
            rates: Field → how much of its cost goes with all prunable weights.
            candidate: Some strategy.
        """
        return max((self.cost(kind, candidate) - self._most(kind)) / rate for kind, rate in rates.items())

    def bound(self, kind: str, cost: float) -> str:
        """Say what a field could be where its cost cannot be lower."""
        if LIMITS[kind].inverse:
            return f"at most {round_down(1.0 / cost)}"
        return f"at least {cost if isinstance(cost, int) else round_up(cost)}"

    def give(self, exceeded: Mapping[str, float]) -> str:
        """Say what limits would have to be."""
        said = []
        for kind, cost in exceeded.items():
            over = cost - self._most(kind)
            if kind == SPARSITY:
                said.append(f"{kind} {round_down(1.0 - cost)} ({over:.2g} less)")
            elif LIMITS[kind].inverse:
                said.append(f"{kind} {round_down(1.0 / cost)} ({getattr(self.request, kind) - 1.0 / cost:.2g} less)")
            elif isinstance(cost, int):
                said.append(f"{kind} {cost:,} ({over:,} more)")
            else:
                said.append(f"{kind} {round_up(cost)} ({over:.2g} more)")
        return " and ".join(said)
