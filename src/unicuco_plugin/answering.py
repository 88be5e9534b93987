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

from unicuco_plugin.contest import Candidate, Contest, safest
from unicuco_plugin.errors import ProfileError, RequestError, round_down, round_up
from unicuco_plugin.plugins.manager import make_scalarization, make_space
from unicuco_plugin.profile import ProfileRecord, read_profile
from unicuco_plugin.request import Request
from unicuco_plugin.search.evidence import Evidence
from unicuco_plugin.search.posterior import Z90, Posterior
from unicuco_plugin.search.scalarization import Z_STAR, Scaling
from unicuco_plugin.search.stratnet import StratNet
from unicuco_plugin.strategy import Divergence, ModelReference, Source, Strategy

__all__ = ["PACKAGED", "Profile", "load_profile", "packaged_profiles"]

PACKAGED = Path(__file__).parent / "profiles"


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
        self.search_space = make_space(record.space, record.units, record.sizes.unit_params)
        try:
            self.posterior = Posterior.from_tensors(tensors["surrogate"], record.target)
            self.net = StratNet(len(record.units), torch.Generator().manual_seed(0))
            self.net.load_state_dict({name: value.double() for name, value in tensors["stratnet"].items()})
            self._scaling = Scaling(record.ideal, record.nadir)
        except (KeyError, ValueError, RuntimeError) as error:
            raise ProfileError(f"profile {record.name} is damaged: {error}") from error
        rows = [self.search_space.from_units(entry.units) for entry in record.archive]
        entries = dict(zip(map(self.search_space.key, rows), record.archive, strict=True))
        evidence = Evidence(record.reranked_shift, record.noise)
        self._contest = Contest(self.search_space, self.net, self.posterior, entries, evidence)

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
        return [self._strategy(request, best) for request, best in zip(requests, self._contest.best, strict=True)]

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
        if request.kind == "preference":
            return self._strategy(request, self._preferred(request))
        return self._strategy(request, self._contest.best[self._budget_of(request)])

    def answer_many(self, requests: Iterable[Request]) -> list[Strategy]:
        """Answer many requests, in order; budgets that they share are worked out once."""
        return [self.answer(request) for request in requests]

    def proposals(self, request: Request, source: Source) -> Strategy:
        """Answer a request from one source alone, for comparison.

        Raises:
            RequestError: As ``answer``; also for ``preference``, or if the source has nothing at that budget.
        """
        if request.kind == "preference":
            raise RequestError("proposals of one source need a budget, got a preference")
        found = [c for c in self._contest.candidates[self._budget_of(request)] if c.source == source]
        if not found:
            raise RequestError(f"{source} has no strategy for {request.to_dict()}")
        return self._strategy(request, safest(found))

    # -- which budget ---------------------------------------------------------------------------------------------

    def _budget_of(self, request: Request) -> int:
        budgets = self.search_space.budgets
        if request.kind == "sparsity":
            for index, budget in enumerate(budgets):
                if budget >= (request.sparsity or 0.0) - 1e-9:
                    return index
            raise RequestError(
                f"sparsity must be at most {round_down(budgets[-1])} for this profile ({len(budgets)} of "
                f"{len(self.units)} units), got {request.sparsity}"
            )
        fits = [index for index in range(len(budgets)) if self._fits(request, index)]
        if request.kind == "max_divergence":
            if not fits:
                least = min(upper for _, _, upper in self._facts)
                raise RequestError(
                    f"max_divergence must be at least {round_up(least)} nats per token for this profile, the upper "
                    f"end of its least harmful strategy's interval, got {request.max_divergence}"
                )
            return max(fits)
        if not fits:
            params, size = self._sizes(self._contest.best[-1].x)
            size = params if request.kind == "max_params" else size
            raise RequestError(
                f"{request.kind} must be at least {size} for this profile, with all units but one removed, "
                f"got {getattr(request, request.kind)}"
            )
        return min(fits)

    def _fits(self, request: Request, index: int) -> bool:
        params, size, upper = self._facts[index]
        if request.max_divergence is not None:
            return upper <= request.max_divergence
        return params <= request.max_params if request.max_params is not None else size <= (request.max_bytes or 0)

    @cached_property
    def _facts(self) -> list[tuple[int, int, float]]:
        """Parameters, bytes and the divergence's upper end of each budget's best."""
        return [(*self._sizes(best.x), self._divergence(best).interval90[1]) for best in self._contest.best]

    # -- which strategy -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _preferred(self, request: Request) -> Candidate:
        """The candidate with the least scalarized objective: StratNet's answer competes with each budget's best."""
        lam = torch.tensor([request.preference], dtype=torch.float64)
        candidates = self._contest.predict(self.search_space.relax(self.net(lam)).round(decimals=6), "stratnet")
        candidates += self._contest.best
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
        confirmed = candidate.entry.confirmed if candidate.entry else None
        if confirmed is not None:
            return Divergence(mean=confirmed.mean, interval90=confirmed.interval90, measured=True)
        return self._shifted(candidate.mean, candidate.std)

    def _shifted(self, mean: float, std: float) -> Divergence:
        """From the ranking windows' logarithm to the confirming windows' nats per token."""
        centre = mean + self.record.shift
        half = Z90 * math.hypot(std, self.record.shift_std)
        return Divergence(
            mean=math.exp(centre), interval90=(math.exp(centre - half), math.exp(centre + half)), measured=False
        )

    def _sizes(self, x: Tensor) -> tuple[int, int]:
        sizes = self.record.sizes
        gone = x.nonzero()[:, 0].tolist()
        return (
            sizes.total_params - sum(sizes.unit_params[i] for i in gone),
            sizes.total_bytes - sum(sizes.unit_bytes[i] for i in gone),
        )

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
