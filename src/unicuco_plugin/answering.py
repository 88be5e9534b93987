"""Answering requests from a profile: StratNet, the archive and the posterior's neighbours compete.

Everything here is small linear algebra on the profile's own tensors; no language model is needed.
"""

import math
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unicuco_plugin.errors import ProfileError, RequestError, StrategyError, UnicucoError, quoted
from unicuco_plugin.levels.record import identify_levels
from unicuco_plugin.limits import Facts, Limits
from unicuco_plugin.objectives.floor import floored
from unicuco_plugin.plugins.manager import make_scalarization, make_space
from unicuco_plugin.policy.contest import Candidate, Contest, safest
from unicuco_plugin.policy.evidence import Evidence
from unicuco_plugin.policy.posterior import Z90, Posterior
from unicuco_plugin.policy.scalarization import Z_STAR, Scaling
from unicuco_plugin.policy.shift import Shift
from unicuco_plugin.policy.stratnet import StratNet
from unicuco_plugin.profile import read_profile
from unicuco_plugin.profile_record import ProfileRecord
from unicuco_plugin.request import Request
from unicuco_plugin.spaces.space import Named
from unicuco_plugin.strategy import Divergence, ModelReference, Source, Strategy

if TYPE_CHECKING:
    from unicuco_plugin.scores.ranked_parts import RankedParts

__all__ = ["PACKAGED", "Profile", "load_profile", "packaged_profiles"]

PACKAGED = Path(__file__).parent / "profiles"
# Logarithm of the largest divergence that is told: a file may claim more than a float can hold.
_LARGEST = 700.0


class Profile:
    """A trained profile, ready to answer.

    Args:
        record: What ``profile.json`` says.
        tensors: StratNet's and the surrogate's, by their names, and those of ranked parts, if any, as ``parts``.

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
        try:
            self.search_space = make_space(
                record.space,
                record.units,
                record.sizes.unit_params,
                record.bounds,
                record.sizes.parts,
                needed=record.needed,
            )
            self.posterior = Posterior.from_tensors(tensors["surrogate"], record.target)
            self.posterior.check_units(len(record.units))
            self.net = StratNet(len(record.units), torch.Generator().manual_seed(0))
            self.net.load_finite({name: value.double() for name, value in tensors["stratnet"].items()})
            self._scaling = Scaling(record.ideal, record.nadir)
            for entry in record.archive:
                _check_key(self.search_space, entry.strategy)
        except (KeyError, ValueError, RuntimeError) as error:
            if isinstance(error, UnicucoError) and not isinstance(error, StrategyError):
                raise
            raise ProfileError(f"profile {record.name:.60} is damaged: {error}") from error
        self._parts = tensors.get("parts")
        self._entries = {entry.strategy: entry for entry in record.archive}
        archive = {key: entry.reranked for key, entry in self._entries.items()}
        evidence = Evidence(record.reranked_shift, record.noise)
        confirmed = {key for key, entry in self._entries.items() if entry.confirmed}
        self._contest = Contest(self.search_space, self.net, self.posterior, archive, evidence, confirmed=confirmed)
        whole = (record.sizes.total_params, record.sizes.total_bytes)
        self._limits = Limits(self.search_space, self._contest, self._facts, whole, record.sizes.densest)

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

    def rank_parts(self) -> "RankedParts":
        """Which head groups and neurons go first, as in training, so that shares become kept parts without text.

        Raises:
            ProfileError: If the profile's space has no parts.
        """
        # Here, because it needs Transformers, which answering a request must not wait for.
        from unicuco_plugin.scores.ranked_parts import RankedParts  # noqa: PLC0415

        if self._parts is None:
            raise ProfileError(f"profile {self.name} of space {quoted(self.space)} has no ranked parts")
        try:
            return RankedParts.from_tensors(self._parts)
        except ValueError as error:
            raise ProfileError(f"profile {self.name} is damaged: {error}") from error

    @property
    def provenance(self) -> dict[str, Any]:
        """How it was trained: command, seed, tokens, seconds, versions, calibration."""
        return self.record.provenance

    @cached_property
    def _levels(self) -> str | None:
        """Identity of the level database it was trained on."""
        known = self.provenance.get("levels")
        return identify_levels(*known["levels"]) if known else None

    def predict(self, x: Tensor) -> Divergence:
        """Predict the divergence of one strategy, ``d`` shares, from the surrogate alone, even if it was measured."""
        with torch.no_grad():
            mean, std = self.posterior.log_predict(x[None])
        return self._shifted(x, mean.item(), std.item())

    def front(self) -> list[Strategy]:
        """The best strategy at each budget, smallest removal first."""
        requests = [Request.of(sparsity=budget) for budget in self.search_space.budgets]
        return [self._strategy(request, best) for request, best in zip(requests, self._best, strict=True)]

    def answer(self, request: Request | None = None, **fields: Any) -> Strategy:  # noqa: ANN401 - checked by Request
        """Answer one request, given whole or as one field: ``answer(sparsity=0.25)``.

        Deterministic. The divergence is measured if the strategy was confirmed in training, otherwise predicted.

        Raises:
            RequestError: If the request is malformed or cannot be met; the message says what can.
        """
        if request is None:
            request = Request.of(**fields)
        elif fields:
            raise RequestError(f"give a request or its field, not both; got {request.to_dict()} and {fields}")
        return self.answer_many([request])[0]

    def answer_many(self, requests: Iterable[Request]) -> list[Strategy]:
        """Answer many requests, in order; what they share is computed once."""
        requests = list(requests)
        budgets = {i: self._limits.budget_of(r) for i, r in enumerate(requests) if r.kind != "preference"}
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
        [race] = self._contest.candidates([self._limits.budget_of(request)])
        found = [candidate for candidate in race if candidate.source == source]
        if not found:
            raise RequestError(f"{source} has no strategy for {request.to_dict()}")
        return self._strategy(request, safest(found))

    @property
    def _best(self) -> list[Candidate]:
        return self._contest.best(self.search_space.budgets)

    def _facts(self, candidate: Candidate) -> Facts:
        """Parameters, bytes and the divergence's upper end."""
        return (*self._sizes(candidate.x), self._divergence(candidate).interval90[1])

    # -- which strategy -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _preferred(self, request: Request) -> Candidate:
        """The candidate with the least scalarized objective: StratNet's answer competes with each budget's best."""
        lam = torch.tensor([request.preference], dtype=torch.float64)
        own = self.search_space.relax(self.net(lam)).round(decimals=6)
        if self.search_space.stepped:  # whole steps, where rounding to six digits left thirds
            own = torch.stack([self.search_space.parse(self.search_space.key(row)) for row in own])
        candidates = self._contest.predict(own, "stratnet")
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
        return self._shifted(candidate.x, candidate.mean, candidate.std)

    @cached_property
    def shift(self) -> Shift | None:
        """What the strategies that were confirmed say of the others; None where too few were."""
        confirmed = {key: entry.confirmed for key, entry in self._entries.items() if entry.confirmed is not None}
        if not confirmed:
            return None
        rows = torch.stack([self.search_space.parse(key) for key in confirmed])
        ranked = self._contest.predict(rows, "archive", list(confirmed))
        differences = [
            math.log(floored(found.mean)) - by.mean for found, by in zip(confirmed.values(), ranked, strict=True)
        ]
        return Shift.of(self.search_space.sparsity(rows).tolist(), differences)

    def _shifted(self, x: Tensor, mean: float, std: float) -> Divergence:
        """From the ranking windows' logarithm to the confirming windows' nats per token."""
        shift, shift_std = self.record.shift, self.record.shift_std
        if self.shift is not None:
            shift, shift_std = self.shift.at(self.search_space.sparsity(x[None]).item())
        centre = mean + shift
        half = Z90 * math.hypot(std, shift_std)
        low, mean, high = (math.exp(min(value, _LARGEST)) for value in (centre - half, centre, centre + half))
        return Divergence(mean=mean, interval90=(low, high), measured=False)

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
            levels=self._levels,
            divergence=self._divergence(candidate),
            units=self.search_space.to_units(candidate.x),
        )


def _check_key(space: Named, key: str) -> None:
    """Refuse an archived strategy that the space did not write."""
    try:
        x = space.parse(key)
        known = space.key(x) == key
    except (ValueError, IndexError, OverflowError, RuntimeError):
        known = False
    if not known or not bool(((x >= 0.0) & (x <= 1.0)).all()) or not x.any():
        raise ValueError(f"strategy must be a key of the space {space.name} that removes something, got {quoted(key)}")


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
