"""``SparsityProfileModifier``: a profile's answer, a stored strategy, or a peer's, as one modifier of a recipe."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from llmcompressor.core import State
from llmcompressor.modifiers import Modifier
from pydantic import PrivateAttr, ValidationError, field_validator, model_validator
from torch import nn

from unicuco_plugin.errors import RecipeError, explain
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.modifiers.carriers.compensating import check_compensation, choose_compensation
from unicuco_plugin.modifiers.carriers.follower import check_carrier, check_text
from unicuco_plugin.modifiers.carriers.handlers import Handlers, Task
from unicuco_plugin.modifiers.carriers.recount import recount
from unicuco_plugin.modifiers.carriers.removal import correct_later_saves
from unicuco_plugin.modifiers.carriers.structured_options import StructuredOptions, check_options
from unicuco_plugin.modifiers.carriers.together import check_spaces
from unicuco_plugin.modifiers.recipes.own_recipe import adopt_recipe, check_modifiers
from unicuco_plugin.modifiers.sources.identity import carry_over, find_fingerprint
from unicuco_plugin.modifiers.sources.late import ask_late
from unicuco_plugin.modifiers.sources.limit_check import check_dtype, check_shape
from unicuco_plugin.modifiers.sources.source import EvoPressSource, LateSource, PeerSource, ProfileSource
from unicuco_plugin.modifiers.sources.source_fields import (
    check_source,
    find_payload,
    list_sources,
    plain_source,
    read_strategies,
    trace_source,
)
from unicuco_plugin.modifiers.toolkit.lifecycle import find_alone, ran_to_its_end
from unicuco_plugin.modifiers.toolkit.ranks import agree
from unicuco_plugin.plugins.manager import corrects
from unicuco_plugin.progress import Progress
from unicuco_plugin.pruning import check_model
from unicuco_plugin.request import Request
from unicuco_plugin.strategy import Strategy
from unicuco_plugin.traits import cutting

__all__ = ["SparsityProfileModifier"]


class SparsityProfileModifier(Modifier):
    """Answer a request from a trained profile or a peer, or replay a strategy, and apply it to the model.

    In the space ``depth`` blocks are dropped; in ``structured``, head groups, neurons and modules are removed. In
    ``sparsity`` the next ``SparseGPTModifier`` or ``WandaPruningModifier`` gets a sparsity for every linear; in
    ``precision`` the next quantiser gets its ``config_groups``. It composes with the toolkit's others; list it first.

    Sample YAML::

        pruning_stage:
          pruning_modifiers:
            SparsityProfileModifier: {profile: smollm2-135m-instruct-sparsity, request: {sparsity: 0.6}}
            SparseGPTModifier: {sparsity: 0.6, ignore: ["re:.*lm_head"]}

    A peer answers on the dense model and the toolkit's own calibration text: ``peer: owl``, or with options. When the
    toolkit initialises, the request is answered, the model compared with the profile's, and the next pass filled; when
    it finalises, blocks are dropped and the strategy takes the place of profile and request, so that ``recipe.yaml``
    replays without a profile. If another modifier fails before, the reset session's model has all its blocks again.

    Args:
        profile: A profile folder, or the name of a packaged profile. With ``request``.
        request: One or more limits, ``sparsity``, ``bits``, ``max_params``, ``max_bytes``, ``max_divergence`` …
        strategy: A strategy file, a strategy as a mapping, or a list of these, one per space.
        profiles: Several profiles, one per space: a list of ``{profile: …, request: …}``.
        device_table: Times of the model on a device, which requests of latency and speed need.
        accept_other_weights: Whether to accept a model of the same structure with other weights (a fine-tune).
        levels: A level database's folder, where weights are then from; no pass has to follow.
        peer: Name of a method that answers ``request``, or its name with options (:class:`PeerSource`).
        evopress: A file written by EvoPress, or its name with options (:class:`EvoPressSource`).
        structured: How a strategy of the space ``structured`` is carried out (:class:`StructuredOptions`).
        compensation: Corrects for dropped blocks, on calibration text; by default what the strategy was measured with.
        provenance: Where the strategy came from; written into ``recipe.yaml`` and never read.

    Raises:
        RecipeError: If not exactly one source is given, or a field is unknown or out of its range.
    """

    profile: str | None = None
    request: dict[str, Any] | None = None
    strategy: str | dict[str, Any] | list[str | dict[str, Any]] | None = None
    profiles: list[ProfileSource] | None = None
    device_table: str | None = None
    accept_other_weights: bool = False
    levels: str | None = None
    peer: PeerSource | None = None
    evopress: EvoPressSource | None = None
    structured: StructuredOptions | None = None
    compensation: str | None = None
    provenance: list[dict[str, Any]] | None = None

    _strategies: tuple[Strategy, ...] | None = PrivateAttr(default=None)
    _fingerprint: str | None = PrivateAttr(default=None)  # of the model, once the strategies are known to be its
    _progress: Callable[[Progress], None] = PrivateAttr(default_factory=lambda: lambda _: None)
    _handlers: Handlers = PrivateAttr(default_factory=Handlers)

    def __init__(self, **fields: Any) -> None:  # noqa: ANN401 - validated right here
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise RecipeError(f"{type(self).__name__}: {explain(error)}") from error

    @field_validator("profile", "strategy", "levels", "device_table", mode="before")
    @classmethod
    def _read_path(cls, value: object) -> object:
        return plain_source(value)

    @field_validator("request")
    @classmethod
    def _check_request(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if value is None else Request.of(**value).to_dict()

    @model_validator(mode="after")
    def _check_one_way(self) -> "SparsityProfileModifier":
        check_source(vars(self))
        corrects(self.compensation)
        return self

    @property
    def late(self) -> LateSource | None:
        """The source that answers once the model is loaded; None where a profile answers or a strategy is replayed."""
        return self.peer or self.evopress

    @property
    def spaces(self) -> tuple[str, ...]:
        """The spaces of the strategies, known before a late source has answered."""
        return tuple(strategy.space for strategy in self.resolve()) if self.late is None else self.late.spaces

    @property
    def needs_text(self) -> bool:
        """Whether answering or carrying out needs calibration text."""
        if corrects(choose_compensation(self.compensation, self.resolve())):
            return True
        if self.late is None:
            return self._options.needs_text(self.resolve(), known=bool(list_sources(vars(self))))
        return self.late.needs_text or (cutting(self.late.spaces) and self._options.kept_parts is None)

    def watch(self, progress: Callable[[Progress], None]) -> None:
        """Register a function that is called with a peer's progress."""
        self._progress = progress

    def resolve(self) -> tuple[Strategy, ...]:
        """Answer the requests, or read the strategies; the second call returns what the first did.

        Returns:
            One strategy per space; none yet where a peer or a file of EvoPress has not seen the model.

        Raises:
            RecipeError: If two strategies are of one space, or a space cannot be applied.
            ProfileError, RequestError, StrategyError: If a profile or strategy cannot be read, or a request not be met.
        """
        if self._strategies is None:
            if self.late is not None:
                check_spaces(self.late.spaces)
                return ()
            found = read_strategies(self.strategy or []) or tuple(one.answer() for one in list_sources(vars(self)))
            check_spaces([strategy.space for strategy in found])
            self._strategies = found
        return self._strategies

    def check(self, model: nn.Module) -> None:
        """Compare the model with that of each strategy, count given ones anew; :meth:`on_initialize` goes on from here.

        Args:
            model: The model with all its blocks.

        Raises:
            ModelMismatchError: If it is another model, has other weights that were not accepted, or another dtype.
        """
        if not self.resolve():  # whoever answers later will do so for this very model
            return
        accept, actual = self.accept_other_weights, find_fingerprint(model)
        strategies = tuple(
            carry_over(one) if check_model(model, one.model, accept_other_weights=accept, actual=actual) else one
            for one in self.resolve()
        )
        self._strategies = strategies if self.strategy is None else tuple(recount(model, one) for one in strategies)
        check_dtype(self._strategies, find_decoder(model).model.dtype)
        self._fingerprint = str(actual)

    def check_recipe(self, modifiers: Sequence[Modifier]) -> None:
        """Refuse a recipe that cannot apply the strategies, before a model is loaded.

        Args:
            modifiers: The recipe's modifiers, this one among them.

        Raises:
            RecipeError: If it has a second modifier of this type, or nothing zeroes weights where a strategy needs it.
        """
        check_modifiers(modifiers)
        place = find_alone(modifiers, type(self))
        check_options(self.structured, self.spaces)
        check_compensation(choose_compensation(self.compensation, self.resolve()), self.spaces, self.levels)
        check_carrier(self.spaces, self.levels, modifiers[:place], modifiers[place + 1 :])
        check_shape(self.resolve(), self._options.format)

    @property
    def outcome(self) -> Handlers:
        """What became of the strategies, once the toolkit has finalised."""
        return self._handlers

    def on_initialize(self, state: State, **kwargs: Any) -> bool:  # noqa: ANN401 - the host's signature
        """Answer, check, bypass and fill; after an error the model is as it was."""
        modifiers = adopt_recipe(state.model).modifiers
        place = find_alone(modifiers, type(self))
        if self.late is not None:
            if cutting(self.late.spaces):
                self._options.check_family(find_decoder(state.model))
            answer = ask_late(self.late, state, self.request, self._progress)
            self._strategies, self._fingerprint = (answer,), answer.model.fingerprint
        if self._fingerprint is None:
            self.check(state.model)
        spaces = [strategy.space for strategy in self.resolve()]
        check_carrier(spaces, self.levels, modifiers[:place], modifiers[place + 1 :])
        check_text(spaces, self.levels, state)
        batches = None if state.data is None else state.data.calib
        chosen = choose_compensation(self.compensation, self.resolve())
        fixed = self.levels, self._options, batches, partial(find_payload, list_sources(vars(self))), chosen
        tasks = [Task(state.model, str(self._fingerprint), one, *fixed) for one in agree(self.resolve())]
        self._handlers.start(tasks, modifiers, place)
        return True

    def on_finalize(self, state: State, **kwargs: Any) -> bool:  # noqa: ANN401 - the host's signature
        """Drop; or restore, where the toolkit finalises only because a run was interrupted."""
        if not ran_to_its_end():
            self._handlers.undo()
            return True
        self._handlers.finish()
        correct_later_saves(state.model)
        self._store()
        return True

    @property
    def _options(self) -> StructuredOptions:
        return self.structured or StructuredOptions()

    def _store(self) -> None:
        """Put the strategies where ``recipe.yaml`` is written from, with profiles and requests as provenance."""
        self.compensation = choose_compensation(self.compensation, self.resolve())
        resolved = [strategy.to_dict() for strategy in self.resolve()]
        source = list_sources(vars(self)) or self.peer or self.evopress or self.strategy
        self.provenance = trace_source(source, self.request) or self.provenance
        self.profile = self.request = self.profiles = self.device_table = self.peer = self.evopress = None
        self.strategy = resolved[0] if len(resolved) == 1 else list(resolved)
        if cutting(self.spaces):
            self.structured = self._options.settled(self._handlers.format)
