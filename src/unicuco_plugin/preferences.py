"""Which strategy a preference takes: the one of least scalarized costs among those within a request's limits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unicuco_plugin.costs.model import CostModel
from unicuco_plugin.errors import RequestError, quoted
from unicuco_plugin.limits import Limits
from unicuco_plugin.plugins.manager import make_scalarization
from unicuco_plugin.policy.contest import Candidate, Contest
from unicuco_plugin.policy.scalarization import Z_STAR, Scaling
from unicuco_plugin.policy.stratnet import StratNet
from unicuco_plugin.profile_record import ProfileRecord
from unicuco_plugin.request import DIVERGENCE, Request
from unicuco_plugin.spaces.space import Space

__all__ = ["Preferences"]


@dataclass(frozen=True)
class Preferences:
    """Weighs two costs of one profile's strategies.

    Attributes:
        record: What the profile says of itself.
        scaling: Of size and divergence, as in training.
        space: Of its strategies.
        net: StratNet, which proposes for size and divergence.
        contest: Knows the best of each budget.
        limits: Of requests.
    """

    record: ProfileRecord
    scaling: Scaling
    space: Space
    net: StratNet
    contest: Contest
    limits: Limits

    @torch.no_grad()
    def choose(self, request: Request, within: Candidate | None) -> Candidate:
        """Let each budget's best compete, and StratNet's answer where size and divergence are weighed.

        Args:
            request: With a preference.
            within: The best within its limits; None where it has none.

        Raises:
            RequestError: If the profile does not know one of the costs, or all its strategies are alike in one.
        """
        costs = self.limits.costs_of(request)
        lam = torch.tensor([request.preference], dtype=torch.float64)
        fixed = self.contest.best(self.space.budgets)
        candidates = fixed if within is None else [within, *(c for c in fixed if self.limits.holds(request, c))]
        if request.over is None:
            own = self.space.relax(self.net(lam)).round(decimals=6)
            if self.space.stepped:  # whole steps, where rounding to six digits left thirds
                own = torch.stack([self.space.parse(self.space.key(row)) for row in own])
            proposed = self.contest.predict(own, "stratnet")
            candidates = [c for c in proposed if self.limits.holds(request, c)] + candidates
        over = request.over or (costs.objective, DIVERGENCE)
        f = self._scale(request, over, costs, fixed).scale(self._values(over, costs, candidates))
        scalarization = make_scalarization(self.record.scalarization)
        g = scalarization(f, lam.expand(len(f), 2), torch.full((2,), Z_STAR, dtype=torch.float64))
        return candidates[int(g.argmin())]

    def _values(self, over: tuple[str, str], costs: CostModel, candidates: list[Candidate]) -> Tensor:
        """Both costs of ``p`` candidates, ``p x 2``."""
        quality = torch.tensor([c.mean for c in candidates], dtype=torch.float64)
        if self.record.quality == "raw":
            quality = quality.exp()
        x = torch.stack([c.x for c in candidates])
        return torch.stack([quality if name == DIVERGENCE else costs.of(name, x).double() for name in over], -1)

    def _scale(self, request: Request, over: tuple[str, str], costs: CostModel, fixed: list[Candidate]) -> Scaling:
        """Where 0 and 1 are: of size and divergence as in training, of others at the ends of the front."""
        if request.over is None:
            return self.scaling
        for name in over:
            if name != DIVERGENCE and name not in costs.names:
                known = ", ".join((*(cost for cost in costs.names if cost != costs.objective), DIVERGENCE))
                raise RequestError(f"over must name two of {known} for this profile, got {quoted(name)}")
        values = self._values(over, costs, fixed)
        low, high = values.amin(0).tolist(), values.amax(0).tolist()
        for name, least, most in zip(over, low, high, strict=True):
            if not least < most:
                raise RequestError(
                    f"over: all strategies of this profile have the same {name}, {most:.6g}; take another"
                )
        return Scaling((low[0], low[1]), (high[0], high[1]))
