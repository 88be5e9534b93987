"""Answers of a profile: StratNet, archive and neighbours compete, in small linear algebra without a language model."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unicuco_plugin.costs.device_table import DeviceTable
from unicuco_plugin.costs.model import TableCosts
from unicuco_plugin.costs.told import tell_load
from unicuco_plugin.errors import ProfileError, RequestError, StrategyError, UnicucoError, quoted
from unicuco_plugin.levels.settings import identify_levels
from unicuco_plugin.payload import Payload
from unicuco_plugin.policy.contest import Candidate, safest
from unicuco_plugin.policy.posterior import Posterior
from unicuco_plugin.policy.scalarization import Scaling
from unicuco_plugin.policy.stratnet import StratNet
from unicuco_plugin.profile import PACKAGED, find_profile, packaged_profiles, read_profile
from unicuco_plugin.profile_record import ProfileRecord
from unicuco_plugin.quantities import Load
from unicuco_plugin.request import Request
from unicuco_plugin.schemes import DENSE_BITS
from unicuco_plugin.spaces.space import check_key
from unicuco_plugin.strategy import Divergence, ModelReference, Source, Strategy
from unicuco_plugin.threads import one_thread
from unicuco_plugin.traits import traits_of
from unicuco_plugin.views import Views, record_space

if TYPE_CHECKING:
    from unicuco_plugin.scores.ranked_parts import RankedParts

__all__ = ["PACKAGED", "Profile", "load_profile", "packaged_profiles"]


class Profile:
    """A trained profile, ready to answer.

    Args:
        record: What ``profile.json`` says.
        tensors: StratNet's and the surrogate's, by their names, and the payload's by its own, if there is one.
        device: Times of the model on a device, for limits on latency and speed.

    Attributes:
        record: As given.
        search_space: The space of its strategies.
        net: StratNet.
        posterior: The surrogate.
        costs: What its strategies cost.
        divergences: What is known of theirs.

    Raises:
        ProfileError: If the tensors do not fit the record.
        ModelMismatchError: If ``device`` has times of a model of another structure.
        UnknownNameError: If no plugin provides its space.
    """

    def __init__(
        self, record: ProfileRecord, tensors: dict[str, dict[str, Tensor]], device: DeviceTable | None = None
    ) -> None:
        self.record = record
        if device is not None:
            device.check_model(record.model)
        try:
            self.search_space = record_space(record)
            self.posterior = Posterior.from_tensors(tensors["surrogate"], record.target)
            self.posterior.check_units(len(record.units))
            self.net = StratNet(len(record.units), torch.Generator().manual_seed(0))
            self.net.load_finite({name: value.double() for name, value in tensors["stratnet"].items()})
            scaling = Scaling(record.ideal, record.nadir)
            for entry in record.archive:
                check_key(self.search_space, entry.strategy)
        except (KeyError, ValueError, RuntimeError) as error:
            if isinstance(error, UnicucoError) and not isinstance(error, StrategyError):
                raise
            raise ProfileError(f"profile {record.name:.60} is damaged: {error}") from error
        self._tensors = tensors
        self._plain = {entry.strategy: entry.plain for entry in record.archive if entry.plain}
        physical = self.search_space.physical
        self.costs = TableCosts(record.units, record.sizes, physical, device=device, space=record.space)
        self._views = Views(record, self.search_space, self.net, self.posterior, scaling, self.costs)
        self.divergences = self._views.divergences

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
    def payload(self) -> Payload | None:
        """What its strategies need beyond shares; None where shares say everything.

        Raises:
            ProfileError: If they need one, and the profile does not hold it.
        """
        name = traits_of(self.space).payload
        if name is None:
            return None
        if name in self._tensors:
            return Payload(name, self._tensors[name])
        raise ProfileError(f"profile {self.name} must hold the payload {quoted(name)}, which its space needs")

    def rank_parts(self) -> "RankedParts":
        """Which head groups and neurons go first, as in training, so that shares become kept parts without text.

        Raises:
            ProfileError: If the profile's space has no parts.
        """
        from unicuco_plugin.scores.ranked_parts import RankedParts  # noqa: PLC0415 - answering needs no Transformers

        if self.payload is None:
            raise ProfileError(f"profile {self.name} of space {quoted(self.space)} has no ranked parts")
        try:
            return RankedParts.of(self.payload)
        except ValueError as error:
            raise ProfileError(f"profile {self.name} is damaged: {error}") from error

    @property
    def provenance(self) -> dict[str, Any]:
        """How it was trained: command, seed, tokens, seconds, versions, calibration."""
        return self.record.provenance

    @cached_property
    def _levels(self) -> str | None:
        """Identity of the level database it was trained on."""
        return identify_levels(*known["levels"]) if (known := self.provenance.get("levels")) else None

    @one_thread()
    def predict(self, x: Tensor) -> Divergence:
        """Predict the divergence of one strategy, ``d`` shares, from the surrogate alone, even if it was measured."""
        with torch.no_grad():
            mean, std = self.posterior.log_predict(x[None])
        return self.divergences.shifted(x, mean.item(), std.item())

    @one_thread()
    def front(self, load: Load | None = None, cost: str = "") -> list[Strategy]:
        """The best strategy at each budget, smallest removal first.

        Args:
            load: Also tell memory and times under it.
            cost: ``memory``, ``latency`` or ``time``: the best at budgets of it, where units are priced by it.

        Raises:
            RequestError: If neither can be told, or no limit on that cost be asked.
        """
        shares, best = self._views.front(load, cost)
        beside, stored = {} if load is None else load.to_fields(), bool(self.record.sizes.choices)
        asked = [{"bits": DENSE_BITS * (1.0 - share)} if stored else {"sparsity": share} for share in shares]
        return [self._strategy(Request.of(**one, **beside), found) for one, found in zip(asked, best, strict=True)]

    @one_thread()
    def ends(self, cost: str, load: Load) -> tuple[float, float]:
        """The least and the most of ``memory``, ``latency`` or ``time`` that can be asked: all between has an answer.

        Raises:
            RequestError: If it cannot be asked under that load.
        """
        return self._views.ends(cost, load)

    def answer(self, request: Request | None = None, **fields: Any) -> Strategy:  # noqa: ANN401 - checked by Request
        """Answer one request, given whole or as its fields: ``answer(sparsity=0.25)``.

        Deterministic. The divergence is measured if the strategy was confirmed in training, otherwise predicted.

        Raises:
            RequestError: If the request is malformed or cannot be met; the message says what can.
        """
        if request is not None and fields:
            raise RequestError(f"give a request or its field, not both; got {request.to_dict()} and {fields}")
        return self.answer_many([request or Request.of(**fields)])[0]

    @one_thread()
    def answer_many(self, requests: Iterable[Request]) -> list[Strategy]:
        """Answer many requests, in order; what they share is computed once."""
        requests = list(requests)
        best = self._views.answers(requests)
        return [self._strategy(request, candidate) for request, candidate in zip(requests, best, strict=True)]

    @one_thread()
    def proposals(self, request: Request, source: Source) -> Strategy:
        """Answer a request from one source alone, for comparison.

        Raises:
            RequestError: As ``answer``; also for ``preference``, or if the source has nothing at that budget.
        """
        if request.preference is not None:
            raise RequestError("proposals of one source need a budget, got a preference")
        view = self._views.of(request)
        [race] = view.contest.candidates([view.limits.budget_of(request)])
        if found := [candidate for candidate in race if candidate.source == source]:
            return self._strategy(request, safest(found))
        raise RequestError(f"{source} has no strategy for {request.to_dict()}")

    def _strategy(self, request: Request, candidate: Candidate) -> Strategy:
        x, stored = candidate.x[None], bool(self.record.sizes.choices)
        memory, latency = (None, None) if request.load is None else tell_load(self.costs, request.load, x)
        return Strategy(
            space=self.record.space,
            model=self.record.model,
            request=request,
            sparsity=self.search_space.sparsity((x >= 1.0).double() if stored else x).item(),
            bits=round(self.costs.of("bits", x).item(), 9) if stored else None,
            params=int(self.costs.of("params", x)),
            bytes=int(self.costs.of("bytes", x)),
            memory=memory,
            latency=latency,
            source=self._plain.get(candidate.key) or candidate.source,
            levels=self._levels,
            compensation=self.record.compensation,
            divergence=self.divergences.of(candidate),
            units=self.search_space.to_units(candidate.x),
        )


def load_profile(source: str | Path, *, device_table: str | Path | None = None) -> Profile:
    """Load a profile from a folder, or a packaged one by its name.

    Args:
        source: The folder, or the name.
        device_table: Times of the model on a device (``unicuco profile-device``), for limits on latency and speed.

    Raises:
        ProfileError: If there is none, or it is truncated, edited, or of a newer schema.
        DeviceTableError: If the table is missing, edited, unfinished, or of another schema.
        ModelMismatchError: If it is of a model of another structure.
    """
    table = None if device_table is None else DeviceTable.read(Path(device_table))
    return Profile(*read_profile(find_profile(source)), table)
