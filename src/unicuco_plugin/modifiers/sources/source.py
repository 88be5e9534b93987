"""Where a strategy comes from, as a recipe says it: a profile, a peer, or a file written by EvoPress."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from unicuco_plugin.errors import RequestError, StrategyError, quoted
from unicuco_plugin.frozen import Frozen
from unicuco_plugin.levels.scheme_levels import open_levels
from unicuco_plugin.models.blocks.decoder import Decoder, find_decoder
from unicuco_plugin.modifiers.sources.identity import identify
from unicuco_plugin.peers.evopress_files import STEP, drops_to_units, levels_to_units, read_either
from unicuco_plugin.peers.peer import OPTIONAL, PeerRequest, Setting, ask_peer
from unicuco_plugin.peers.strategies import make_strategy, share_of_units
from unicuco_plugin.plugins.manager import make_peer
from unicuco_plugin.progress import Progress
from unicuco_plugin.request import Request
from unicuco_plugin.schemes import DENSE_BITS
from unicuco_plugin.strategy import Strategy
from unicuco_plugin.traits import traits_of

__all__ = ["EvoPressSource", "LateSource", "PeerSource", "ProfileSource"]

Tell = Callable[[Progress], None]


class LateSource(Protocol):
    """A source whose strategy can only be told once the model is there."""

    @property
    def spaces(self) -> tuple[str, ...]:
        """The spaces of its strategies."""
        ...

    @property
    def needs_text(self) -> bool:
        """Whether it reads calibration windows."""
        ...

    def answer(self, model: nn.Module, windows: Tensor, request: Request | None, progress: Tell) -> Strategy:
        """Find the strategy for a model, which is dense and stays so."""
        ...


class _Source(Frozen):
    @field_validator("profile", "file", "levels", "journal", "device_table", mode="before", check_fields=False)
    @classmethod
    def _read_path(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value


class ProfileSource(_Source):
    """One profile of several, with the request it answers, and times of a device if that asks for some."""

    profile: str
    request: dict[str, Any]
    device_table: str | None = None

    @field_validator("request")
    @classmethod
    def _check_request(cls, value: dict[str, Any]) -> dict[str, Any]:
        return Request.of(**value).to_dict()

    def answer(self) -> Strategy:
        """Ask the profile.

        Raises:
            ProfileError, DeviceTableError, ModelMismatchError: If it cannot be read, or the times with it.
            RequestError: If the request cannot be met.
        """
        # Profiles bring the search's packages with them; a replayed strategy needs none of these.
        from unicuco_plugin.answering import load_profile  # noqa: PLC0415

        return load_profile(self.profile, device_table=self.device_table).answer(Request.of(**self.request))


class PeerSource(_Source):
    """A method of others' that answers instead of a profile; its name alone where it takes no more.

    Attributes:
        name: As ``unicuco plugins`` lists it.
        space: Of the strategy, for a peer that serves several; its usual one if left out.
        levels: A level database's folder, for peers whose candidates are made from one.
        setting: ``official`` or ``super_fast``.
        token_budget: Most evaluation tokens to spend.
        seed: Decides everything random.
        journal: A file that a killed search resumes from.

    Raises:
        UnknownNameError: If no plugin provides the peer.
    """

    name: str
    space: str | None = None
    levels: str | None = None
    setting: Setting | None = None
    token_budget: int | None = Field(default=None, gt=0)
    seed: int | None = Field(default=None, ge=0)
    journal: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_peer(self) -> "PeerSource":
        peer = make_peer(self.name)
        if self.space is not None and self.space not in peer.spaces:
            raise ValueError(f"space must be one of {', '.join(peer.spaces)} for {self.name}, got {quoted(self.space)}")
        given = {name for name in OPTIONAL & type(self).model_fields.keys() if getattr(self, name) is not None}
        for name in sorted(given - peer.takes):
            raise ValueError(f"{name} goes with peers that take it, {self.name} does not")
        needed = "levels" in peer.takes and traits_of(self.spaces[0]).on_levels
        if needed and self.levels is None:
            raise ValueError(f"{self.name} makes its candidates from a level database: give levels, got none")
        if self.levels is not None and not needed:
            raise ValueError(f"levels goes with spaces on level databases, got it for {quoted(self.spaces[0])}")
        return self

    @property
    def spaces(self) -> tuple[str, ...]:
        """The one space that was asked for."""
        return (self.space or make_peer(self.name).spaces[0],)

    @property
    def needs_text(self) -> bool:
        """Whether the peer takes windows."""
        return "windows" in make_peer(self.name).takes

    def answer(self, model: nn.Module, windows: Tensor, request: Request | None, progress: Tell) -> Strategy:
        """Let the peer work.

        Raises:
            RequestError: If the request is not for a sparsity (in spaces of bits, for bits), or cannot be met.
            LevelsError: If the level database cannot be read or is another model's.
            CalibrationError, JournalError: See the peer.
            UnsupportedModelError: If the model cannot be pruned.
        """
        wanted = "bits" if traits_of(self.spaces[0]).stores else "sparsity"
        amount: float | None = getattr(request, wanted, None)
        if request is None or amount is None:
            raise RequestError(f"a peer answers a request for {wanted}, got {request.to_dict() if request else None}")
        decoder, reference = find_decoder(model), identify(model)
        levels = None if self.levels is None else open_levels(self.levels)
        if levels is not None:
            levels.check_model(reference.fingerprint)
        given = {name: getattr(self, name) for name in ("setting", "token_budget", "seed")}
        asked = PeerRequest(
            decoder,
            windows,
            1.0 - amount / DENSE_BITS if wanted == "bits" else amount,
            space=self.spaces[0],
            levels=levels,
            journal=None if self.journal is None else Path(self.journal),
            progress=progress,
            **{name: value for name, value in given.items() if value is not None},
        )
        found = ask_peer(make_peer(self.name), asked)
        return make_strategy(
            decoder,
            found.space,
            found.units,
            model=reference,
            sparsity=found.sparsity,
            request=request,
            source="peer",
            peer=self.name,
            levels=levels,
        )


class EvoPressSource(_Source):
    """A file that EvoPress wrote: which sub-layers go, or the level of every linear.

    Attributes:
        file: ``layer_drop_config.txt`` or a file of levels.
        sparsity: The mean sparsity of a file of levels, in (0, 1), which the file does not give.
        step: Weights of one level.
    """

    file: str
    sparsity: float | None = Field(default=None, gt=0, lt=1)
    step: int = Field(default=STEP, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _read_file(cls, value: object) -> object:
        return {"file": str(value)} if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _check_kind(self) -> "EvoPressSource":
        sparse = isinstance(read_either(Path(self.file)), dict)
        if sparse and self.sparsity is None:
            raise ValueError(f"{self.file} is a file of levels, which does not give its mean: give sparsity, got none")
        if not sparse and self.sparsity is not None:
            raise ValueError(f"{self.file} says which layers go: sparsity goes with a file of levels")
        if not sparse and "step" in self.model_fields_set:
            raise ValueError(f"{self.file} says which layers go: step goes with a file of levels")
        return self

    @property
    def spaces(self) -> tuple[str, ...]:
        """``sparsity`` for levels; ``depth`` where whole blocks go, else ``sublayer``."""
        found = read_either(Path(self.file))
        if isinstance(found, dict):
            return ("sparsity",)
        return ("sublayer",) if {"attn", "mlp"} & set(found) else ("depth",)

    @property
    def needs_text(self) -> bool:
        """No: everything is in the file."""
        return False

    def answer(self, model: nn.Module, windows: Tensor, request: Request | None, progress: Tell) -> Strategy:
        """Read the file for a model.

        Raises:
            StrategyError: If the file is not for this model.
            UnsupportedModelError: If the model cannot be pruned.
        """
        decoder = find_decoder(model)
        try:
            units, share = self._units(decoder)
        except StrategyError as error:
            raise StrategyError(f"{self.file}: {error}") from error
        return make_strategy(
            decoder,
            self.spaces[0],
            units,
            model=identify(model),
            sparsity=share,
            request=Request.of(sparsity=share),
            source="evopress_file",
        )

    def _units(self, decoder: Decoder) -> tuple[dict[str, float], float]:
        found = read_either(Path(self.file))
        if isinstance(found, dict):
            share = self.sparsity or 0.0
            sizes = {name: linear.weight.numel() for name, linear in decoder.all_linears().items()}
            return levels_to_units(found, sizes, share, self.step), share
        units = drops_to_units(found, decoder, halves=traits_of(self.spaces[0]).halves)
        share = share_of_units(decoder, self.spaces[0], units)
        if not 0.0 < share < 1.0:
            raise StrategyError(f"must remove a part of the model, got a share of {share:g}")
        return units, share
