"""What a request asks of costs, held against candidates: which limits one exceeds, and by how much."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from unicuco_plugin.costs.model import CostModel
from unicuco_plugin.errors import round_down, round_up
from unicuco_plugin.policy.contest import Candidate
from unicuco_plugin.request import LIMITS, Request
from unicuco_plugin.spaces.space import Space

__all__ = ["Asked"]

# Mean bits and sparsities are quotients of whole numbers.
_SLACK = 1e-9


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

    def cost(self, kind: str, candidate: Candidate) -> float:
        """What a candidate costs of what a field limits; its sparsity, for ``sparsity``."""
        x = candidate.x[None]
        return (self.space.sparsity(x) if kind == "sparsity" else self.costs.of(LIMITS[kind].cost, x)).item()

    def exceeded(self, candidate: Candidate, kinds: Collection[str] = (*LIMITS, "sparsity")) -> dict[str, float]:
        """Fields whose limit it exceeds, and what these would have to be for it."""
        found = {}
        for kind in self.request.kinds:
            if kind in kinds:
                cost, most = self.cost(kind, candidate), getattr(self.request, kind)
                over = most - cost if kind == "sparsity" else cost - most
                if over > (0.0 if isinstance(most, int) else _SLACK):
                    found[kind] = cost
        return found

    def over(self, counted: Mapping[str, tuple[str, float]], candidate: Candidate) -> float:
        """By which share of all prunable weights too much is left of the costs that are counted; at most 0 if none."""
        return max(
            (self.cost(kind, candidate) - most) / self.costs.falls(cost)[0] for kind, (cost, most) in counted.items()
        )

    def give(self, exceeded: Mapping[str, float]) -> str:
        """Say what limits would have to be."""
        said = []
        for kind, cost in exceeded.items():
            asked = getattr(self.request, kind)
            whole = isinstance(asked, int)
            what = f"{cost:,}" if whole else round_down(cost) if kind == "sparsity" else round_up(cost)
            less = "less" if kind == "sparsity" else "more"
            said.append(f"{kind} {what} ({abs(cost - asked):{',' if whole else '.2g'}} {less})")
        return " and ".join(said)
