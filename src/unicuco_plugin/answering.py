"""Answering requests from a profile: StratNet, the archive and the posterior's neighbours compete.

Everything here is small linear algebra on the profile's own tensors; no language model is needed.
"""

import math
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unicuco_plugin.errors import ProfileError, RequestError, round_up
from unicuco_plugin.plugins.manager import make_scalarization, make_space
from unicuco_plugin.profile import ProfileRecord, read_profile
from unicuco_plugin.request import Request
from unicuco_plugin.search.contest import Candidate, Contest, safest
from unicuco_plugin.search.evidence import Evidence
from unicuco_plugin.search.posterior import Z90, Posterior
from unicuco_plugin.search.scalarization import Z_STAR, Scaling
from unicuco_plugin.search.stratnet import StratNet
from unicuco_plugin.strategy import Divergence, ModelReference, Source, Strategy

__all__ = ["PACKAGED", "Profile", "load_profile", "packaged_profiles"]

PACKAGED = Path(__file__).parent / "profiles"
# Halvings of a step between budgets of a smooth space: a twentieth comes down to 0.0004.
_BISECTIONS = 7


class Profile:
    """A trained profile, ready to answer.

    Args:
        record: What ``profile.json`` says.
        tensors: Those of StratNet and of the surrogate, by these names.

    Attributes:
        record: As given.
        search_space: The space of its strategies.
        net: StratNet.
        posterior: The surrogate.

    Raises:
        ProfileError: If the tensors do not fit the record.
        UnknownNameError: If no plugin provides its space.
    """

    def __init__(self, record: ProfileRecord, tensors: dict[str, dict[str, Tensor]]) -> None:
        self.record = record
        self.search_space = make_space(
            record.space, record.units, record.sizes.unit_params, record.bounds, record.sizes.parts
        )
        try:
            self.posterior = Posterior.from_tensors(tensors["surrogate"], record.target)
            self.net = StratNet(len(record.units), torch.Generator().manual_seed(0))
            self.net.load_state_dict({name: value.double() for name, value in tensors["stratnet"].items()})
            self._scaling = Scaling(record.ideal, record.nadir)
        except (KeyError, ValueError, RuntimeError) as error:
            raise ProfileError(f"profile {record.name} is damaged: {error}") from error
        self._entries = {entry.strategy: entry for entry in record.archive}
        archive = {key: entry.reranked for key, entry in self._entries.items()}
        evidence = Evidence(record.reranked_shift, record.noise)
        confirmed = {key for key, entry in self._entries.items() if entry.confirmed}
        self._contest = Contest(self.search_space, self.net, self.posterior, archive, evidence, confirmed=confirmed)

    @property
    def name(self) -> str:
        """What the profile is called."""
        return self.record.name

    @property
    def space(self) -> str:
        """Name of its space."""
        return self.record.space

    @property
    def model(self) -> ModelReference:
        """The dense model it was trained for."""
        return self.record.model

    @property
    def units(self) -> tuple[str, ...]:
        """All unit names."""
        return self.record.units

    @property
    def unit_params(self) -> tuple[int, ...]:
        """Parameters of each unit."""
        return self.record.sizes.unit_params

    @property
    def provenance(self) -> dict[str, Any]:
        """How it was trained: command, seed, tokens, seconds, versions, calibration."""
        return self.record.provenance

    def predict(self, x: Tensor) -> Divergence:
        """Predict the divergence of one strategy, ``d`` shares, measured or not, by the surrogate alone."""
        with torch.no_grad():
            mean, std = self.posterior.log_predict(x[None])
        return self._shifted(mean.item(), std.item())

    def front(self) -> list[Strategy]:
        """The best strategy of each budget, smallest removal first."""
        requests = [Request.of(sparsity=budget) for budget in self.search_space.budgets]
        return [self._strategy(request, best) for request, best in zip(requests, self._best, strict=True)]

    def answer(self, request: Request | None = None, **fields: Any) -> Strategy:  # noqa: ANN401 - checked by Request
        """Answer one request, given whole or as one field: ``answer(sparsity=0.25)``.

        Deterministic. The divergence is measured where the strategy was confirmed in training, else predicted.

        Raises:
            RequestError: If the request is malformed or cannot be met; the message says what can.
        """
        if request is None:
            request = Request.of(**fields)
        elif fields:
            raise RequestError(f"give a request or its field, not both; got {request.to_dict()} and {fields}")
        return self.answer_many([request])[0]

    def answer_many(self, requests: Iterable[Request]) -> list[Strategy]:
        """Answer many requests, in order; what they share is worked out once."""
        requests = list(requests)
        budgets = {i: self._budget_of(r) for i, r in enumerate(requests) if r.kind != "preference"}
        best = dict(zip(budgets, self._contest.best(list(budgets.values())), strict=True))
        return [
            self._strategy(request, best[index] if index in best else self._preferred(request))
            for index, request in enumerate(requests)
        ]

    def proposals(self, request: Request, source: Source) -> Strategy:
        """Answer a request from one source alone, for comparison.

        Raises:
            RequestError: As ``answer``; also for ``preference``, or if the source has nothing at that budget.
        """
        if request.kind == "preference":
            raise RequestError("proposals of one source need a budget, got a preference")
        [race] = self._contest.candidates([self._budget_of(request)])
        found = [candidate for candidate in race if candidate.source == source]
        if not found:
            raise RequestError(f"{source} has no strategy for {request.to_dict()}")
        return self._strategy(request, safest(found))

    # -- which budget ---------------------------------------------------------------------------------------------

    def _budget_of(self, request: Request) -> float:
        """The sparsity that a request comes down to."""
        if request.sparsity is not None:
            return self.search_space.reaching(request.sparsity)
        budgets = self.search_space.budgets
        if request.max_divergence is not None:
            return self._within(request.max_divergence)
        if not self.search_space.physical:
            raise RequestError(
                f"{request.kind} cannot be asked of space {self.space!r}: zeros in a dense file do not shrink it; ask "
                "for sparsity or max_divergence"
            )
        fits = [budget for budget, facts in zip(budgets, self._facts, strict=True) if _is_within(request, *facts[:2])]
        if not fits:
            params, size = self._sizes(self._best[-1].x)
            size = params if request.kind == "max_params" else size
            raise RequestError(
                f"{request.kind} must be at least {size} for this profile, with all units but one removed, "
                f"got {getattr(request, request.kind)}"
            )
        return min(fits)

    def _within(self, divergence: float) -> float:
        """The largest budget whose best has its interval's upper end within so many nats per token."""
        budgets = self.search_space.budgets
        fits = [index for index, (_, _, upper) in enumerate(self._facts) if upper <= divergence]
        if not fits:
            least = min(upper for _, _, upper in self._facts)
            raise RequestError(
                f"max_divergence must be at least {round_up(least)} nats per token for this profile, the upper "
                f"end of its least harmful strategy's interval, got {divergence}"
            )
        low = budgets[fits[-1]]
        if not self.search_space.smooth or fits[-1] == len(budgets) - 1:
            return low
        high = budgets[fits[-1] + 1]
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            [best] = self._contest.best([middle])
            low, high = (middle, high) if self._divergence(best).interval90[1] <= divergence else (low, middle)
        return low

    @property
    def _best(self) -> list[Candidate]:
        return self._contest.best(self.search_space.budgets)

    @cached_property
    def _facts(self) -> list[tuple[int, int, float]]:
        """Parameters, bytes and the divergence's upper end of each budget's best."""
        return [(*self._sizes(best.x), self._divergence(best).interval90[1]) for best in self._best]

    # -- which strategy -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _preferred(self, request: Request) -> Candidate:
        """The candidate with the least scalarized objective: StratNet's answer competes with each budget's best."""
        lam = torch.tensor([request.preference], dtype=torch.float64)
        candidates = self._contest.predict(self.search_space.relax(self.net(lam)).round(decimals=6), "stratnet")
        candidates += self._best
        quality = torch.tensor([c.mean for c in candidates], dtype=torch.float64)
        if self.record.quality == "raw":
            quality = quality.exp()
        size = 1.0 - self.search_space.sparsity(torch.stack([c.x for c in candidates]))
        f = self._scaling.scale(torch.stack([size, quality], -1))
        scalarization = make_scalarization(self.record.scalarization)
        g = scalarization(f, lam.expand(len(f), 2), torch.full((2,), Z_STAR, dtype=torch.float64))
        return candidates[int(g.argmin())]

    # -- what is said of it ---------------------------------------------------------------------------------------

    def _divergence(self, candidate: Candidate) -> Divergence:
        entry = self._entries.get(candidate.key)
        if entry is not None and entry.confirmed is not None:
            return Divergence(mean=entry.confirmed.mean, interval90=entry.confirmed.interval90, measured=True)
        return self._shifted(candidate.mean, candidate.std)

    def _shifted(self, mean: float, std: float) -> Divergence:
        """From the ranking windows' logarithm to the confirming windows' nats per token."""
        centre = mean + self.record.shift
        half = Z90 * math.hypot(std, self.record.shift_std)
        return Divergence(
            mean=math.exp(centre), interval90=(math.exp(centre - half), math.exp(centre + half)), measured=False
        )

    def _sizes(self, x: Tensor) -> tuple[int, int]:
        return self.record.sizes.left(self.units, x.tolist(), physical=self.search_space.physical)

    def _strategy(self, request: Request, candidate: Candidate) -> Strategy:
        params, size = self._sizes(candidate.x)
        return Strategy(
            space=self.record.space,
            model=self.record.model,
            request=request,
            sparsity=self.search_space.sparsity(candidate.x[None]).item(),
            params=params,
            bytes=size,
            source=candidate.source,
            divergence=self._divergence(candidate),
            units=self.search_space.to_units(candidate.x),
        )


def _is_within(request: Request, params: int, size: int) -> bool:
    return params <= request.max_params if request.max_params is not None else size <= (request.max_bytes or 0)


def packaged_profiles() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(path.parent.name for path in PACKAGED.glob("*/profile.json"))


def load_profile(source: str | Path) -> Profile:
    """Load a profile from a folder, or a packaged one by its name.

    Raises:
        ProfileError: If there is none, or it is truncated, edited, or of a newer schema.
    """
    folder = Path(source)
    if not folder.exists():
        packaged = PACKAGED / str(source)
        if str(source) not in packaged_profiles():
            names = ", ".join(packaged_profiles()) or "none"
            raise ProfileError(f"no profile at {source}: neither a folder nor a packaged profile ({names})")
        folder = packaged
    record, tensors = read_profile(folder)
    return Profile(record, tensors)
