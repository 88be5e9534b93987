"""Answering requests from a profile: StratNet, the archive and the posterior's neighbours compete.

Everything here is small linear algebra on the profile's own tensors; no language model is needed.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unicuco_plugin.errors import ProfileError, RequestError
from unicuco_plugin.plugins.manager import make_scalarization, make_space
from unicuco_plugin.profile import ArchiveEntry, ProfileRecord, read_profile
from unicuco_plugin.request import Request
from unicuco_plugin.search.evidence import Evidence
from unicuco_plugin.search.posterior import Posterior
from unicuco_plugin.search.scalarization import Z_STAR, Scaling
from unicuco_plugin.search.stratnet import StratNet, preference_grid
from unicuco_plugin.strategy import Divergence, ModelReference, Source, Strategy

__all__ = ["PACKAGED", "Profile", "load_profile", "packaged_profiles"]

PACKAGED = Path(__file__).parent / "profiles"
_Z90 = 1.6448536269514722
_GRID = 256
# Neighbours kept in the race for a budget, after all were predicted.
_NEIGHBOURS = 4


@dataclass(frozen=True)
class _Candidate:
    x: Tensor
    source: Source
    mean: float  # log nats per token on the ranking windows, the scale on which all candidates compare
    std: float
    entry: ArchiveEntry | None


class Profile:
    """A trained profile, ready to answer.

    Args:
        record: What ``profile.json`` says.
        tensors: Those of ``stratnet.safetensors`` and ``surrogate.safetensors``.

    Raises:
        ProfileError: If the tensors do not fit the record.
        UnknownNameError: If no plugin provides its space.
    """

    def __init__(self, record: ProfileRecord, tensors: dict[str, dict[str, Tensor]]) -> None:
        self.record = record
        self._space = make_space(record.space, record.units, record.sizes.unit_params)
        try:
            self._posterior = Posterior.from_tensors(tensors["surrogate"], record.target)
            self._net = StratNet(len(record.units), torch.Generator().manual_seed(0))
            self._net.load_state_dict({name: value.double() for name, value in tensors["stratnet"].items()})
            self._scaling = Scaling(record.ideal, record.nadir)
        except (KeyError, ValueError, RuntimeError) as error:
            raise ProfileError(f"profile {record.name} is damaged: {error}") from error
        rows = [self._space.from_units(entry.units) for entry in record.archive]
        self._archive = torch.stack(rows) if rows else torch.empty(0, len(record.units), dtype=torch.float64)
        self._entries = {self._space.key(row): entry for row, entry in zip(rows, record.archive, strict=True)}
        self._best = lru_cache(maxsize=None)(self._best_at)

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

    def front(self) -> list[Strategy]:
        """The best strategy of each budget, smallest removal first."""
        requests = [Request.of(sparsity=budget) for budget in self._space.budgets]
        return [self._strategy(request, self._best(i)) for i, request in enumerate(requests)]

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
        return self._strategy(request, self._best(self._budget_of(request)))

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
        found = [c for c in self._candidates(self._budget_of(request)) if c.source == source]
        if not found:
            raise RequestError(f"{source} has no strategy for {request.to_dict()}")
        return self._strategy(request, _safest(found))

    # -- which budget ---------------------------------------------------------------------------------------------

    def _budget_of(self, request: Request) -> int:
        budgets = self._space.budgets
        if request.kind == "sparsity":
            for index, budget in enumerate(budgets):
                if budget >= (request.sparsity or 0.0) - 1e-9:
                    return index
            raise RequestError(
                f"sparsity must be at most {budgets[-1]:.6g} for this profile ({len(budgets)} of "
                f"{len(self.units)} units), got {request.sparsity}"
            )
        fits = [index for index in range(len(budgets)) if self._fits(request, self._best(index))]
        if request.kind == "max_divergence":
            if not fits:
                least = min(self._divergence(self._best(i)).interval90[1] for i in range(len(budgets)))
                raise RequestError(
                    f"max_divergence must be at least {least:.4g} nats per token for this profile, the upper end of "
                    f"its least harmful strategy's interval, got {request.max_divergence}"
                )
            return max(fits)
        if not fits:
            params, size = self._sizes(self._best(len(budgets) - 1).x)
            size = params if request.kind == "max_params" else size
            raise RequestError(
                f"{request.kind} must be at least {size} for this profile, with all units but one removed, "
                f"got {getattr(request, request.kind)}"
            )
        return min(fits)

    def _fits(self, request: Request, candidate: _Candidate) -> bool:
        if request.max_divergence is not None:
            return self._divergence(candidate).interval90[1] <= request.max_divergence
        params, size = self._sizes(candidate.x)
        return params <= request.max_params if request.max_params is not None else size <= (request.max_bytes or 0)

    # -- which strategy -------------------------------------------------------------------------------------------

    @cached_property
    @torch.no_grad()
    def _scores(self) -> Tensor:
        return self._net(preference_grid(_GRID)).detach()

    @torch.no_grad()
    def _candidates(self, index: int) -> list[_Candidate]:
        """Everybody's best for one budget."""
        space = self._space
        budget = space.budgets[index]
        archive = self._archive[(space.sparsity(self._archive) - budget).abs() < 1e-9]
        proposed = space.project(self._scores, budget).unique(dim=0)
        found = self._predicted(archive, "archive")
        own = self._predicted(proposed, "stratnet")
        found += sorted(own, key=_key)[:1]
        start = _safest(found).x
        moves = space.neighbours(start[None])[0]
        if len(moves):
            moves = moves[self._posterior.mean(moves).argsort(stable=True)[:_NEIGHBOURS]]
            found += [c for c in self._predicted(moves, "neighbour") if c.entry is None]
        return found

    def _best_at(self, index: int) -> _Candidate:
        return _safest(self._candidates(index))

    def _predicted(self, x: Tensor, source: Source) -> list[_Candidate]:
        if not len(x):
            return []
        entries = [self._entries.get(self._space.key(row)) for row in x]
        again = [math.log(entry.reranked) if entry and entry.reranked else math.nan for entry in entries]
        evidence = Evidence(self.record.reranked_shift, self.record.noise)
        mean, std = evidence.weigh(*self._posterior.log_predict(x), torch.tensor(again, dtype=torch.float64))
        return [
            _Candidate(row, source, m, s, entry)
            for row, m, s, entry in zip(x, mean.tolist(), std.tolist(), entries, strict=True)
        ]

    @torch.no_grad()
    def _preferred(self, request: Request) -> _Candidate:
        """The candidate with the least scalarized objective: StratNet's answer competes with each budget's best."""
        lam = torch.tensor([request.preference], dtype=torch.float64)
        candidates = self._predicted(self._space.relax(self._net(lam)).round(decimals=6), "stratnet")
        candidates += [self._best(index) for index in range(len(self._space.budgets))]
        quality = torch.tensor([c.mean for c in candidates], dtype=torch.float64)
        if self.record.quality == "raw":
            quality = quality.exp()
        size = 1.0 - self._space.sparsity(torch.stack([c.x for c in candidates]))
        f = self._scaling.scale(torch.stack([size, quality], -1))
        scalarization = make_scalarization(self.record.scalarization)
        g = scalarization(f, lam.expand(len(f), 2), torch.full((2,), Z_STAR, dtype=torch.float64))
        return candidates[int(g.argmin())]

    # -- what is said of it ---------------------------------------------------------------------------------------

    def _divergence(self, candidate: _Candidate) -> Divergence:
        confirmed = candidate.entry.confirmed if candidate.entry else None
        if confirmed is not None:
            return Divergence(mean=confirmed.mean, interval90=confirmed.interval90, measured=True)
        centre = torch.tensor(candidate.mean + self.record.shift, dtype=torch.float64)
        half = _Z90 * (candidate.std**2 + self.record.shift_std**2) ** 0.5
        low, mean, high = ((centre + offset).exp().item() for offset in (-half, 0.0, half))
        return Divergence(mean=mean, interval90=(low, high), measured=False)

    def _sizes(self, x: Tensor) -> tuple[int, int]:
        sizes = self.record.sizes
        gone = x.nonzero()[:, 0].tolist()
        return (
            sizes.total_params - sum(sizes.unit_params[i] for i in gone),
            sizes.total_bytes - sum(sizes.unit_bytes[i] for i in gone),
        )

    def _strategy(self, request: Request, candidate: _Candidate) -> Strategy:
        params, size = self._sizes(candidate.x)
        return Strategy(
            space=self.record.space,
            model=self.record.model,
            request=request,
            sparsity=self._space.sparsity(candidate.x[None]).item(),
            params=params,
            bytes=size,
            source=candidate.source,
            divergence=self._divergence(candidate),
            units=self._space.to_units(candidate.x),
        )


def _key(candidate: _Candidate) -> float:
    # One standard deviation of caution: among many predictions the lowest is the luckiest.
    return candidate.mean + candidate.std


def _safest(candidates: Sequence[_Candidate]) -> _Candidate:
    return min(candidates, key=_key)


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
