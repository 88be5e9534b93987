"""``SparsityProfileModifier``: a profile's answer, or a stored strategy, as one modifier of a recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmcompressor.core import State, active_session
from llmcompressor.modifiers import Modifier
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, field_validator, model_validator
from torch import nn

from unicuco_plugin.errors import RecipeError, explain
from unicuco_plugin.modifiers.achieved import Achieved
from unicuco_plugin.modifiers.handlers import HANDLERS, SpaceHandler
from unicuco_plugin.modifiers.identity import check_identity
from unicuco_plugin.modifiers.sparsity import find_follower
from unicuco_plugin.modifiers.stitching import StitchHandler
from unicuco_plugin.request import Request
from unicuco_plugin.strategy import Strategy

__all__ = ["ProfileEntry", "SparsityProfileModifier"]

_WAYS = ("profile", "strategy", "profiles")


class ProfileEntry(BaseModel):
    """One profile of several, with the request it answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str
    request: dict[str, Any]

    @field_validator("profile", mode="before")
    @classmethod
    def _read_path(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value

    @field_validator("request")
    @classmethod
    def _check_request(cls, value: dict[str, Any]) -> dict[str, Any]:
        return Request.of(**value).to_dict()


class SparsityProfileModifier(Modifier):
    """Answer a request from a trained profile, or replay a strategy, and apply it to the model.

    For the space ``depth`` the answer's blocks are dropped and the model is saved with a configuration that says so.
    For the space ``sparsity`` the next ``SparseGPTModifier`` or ``WandaPruningModifier`` gets a sparsity for every
    linear, in place of its own ``sparsity`` and ``targets``, and what it made is held against the plan. It composes
    with the toolkit's other modifiers in one recipe; list it first.

    Sample YAML::

        pruning_stage:
          pruning_modifiers:
            SparsityProfileModifier:
              profile: smollm2-135m-instruct-sparsity
              request: {sparsity: 0.6}
            SparseGPTModifier:
              sparsity: 0.6
              ignore: ["re:.*lm_head"]

    Lifecycle:

    - on_initialize
        - answer the request, check that the model is the profile's
        - bypass the blocks; fill the next pass
    - on_finalize
        - drop the blocks, wrap ``save_pretrained``; compare every linear's zeros with the plan
        - put the strategy in place of profile and request, so that ``recipe.yaml`` replays without a profile

    If another modifier fails in between, the model has all its blocks again once the session is reset; weights that a
    pass has zeroed by then stay so.

    Args:
        profile: A profile folder, or the name of a packaged profile. With ``request``.
        request: Exactly one of ``sparsity``, ``max_params``, ``max_bytes``, ``max_divergence``, ``preference``.
        strategy: A strategy file, a strategy as a mapping, or a list of these, one a space.
        profiles: Several profiles, one a space: a list of ``{profile: …, request: …}``.
        accept_other_weights: Whether a model of the same structure with other weights (a fine-tune) will do.
        levels: A level database's folder: a sparsity strategy is then stitched from it, and no pass has to follow.
        provenance: Where the strategy came from; written into ``recipe.yaml`` and never read.

    Raises:
        RecipeError: If not exactly one of ``profile``, ``strategy`` and ``profiles`` is given, or a field is unknown
            or out of its range.
    """

    profile: str | None = None
    request: dict[str, Any] | None = None
    strategy: str | dict[str, Any] | list[str | dict[str, Any]] | None = None
    profiles: list[ProfileEntry] | None = None
    accept_other_weights: bool = False
    levels: str | None = None
    provenance: list[dict[str, Any]] | None = None

    _strategies: tuple[Strategy, ...] | None = PrivateAttr(default=None)
    _checked: bool = PrivateAttr(default=False)
    _handlers: list[SpaceHandler] = PrivateAttr(default_factory=list)

    def __init__(self, **fields: Any) -> None:  # noqa: ANN401 - validated right here
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise RecipeError(f"{type(self).__name__}: {explain(error)}") from error

    @field_validator("profile", "strategy", "levels", mode="before")
    @classmethod
    def _read_path(cls, value: object) -> object:
        match value:
            case Path():
                return str(value)
            case Strategy():
                return value.to_dict()
            case list():
                return [cls._read_path(entry) for entry in value]
            case _:
                return value

    @field_validator("request")
    @classmethod
    def _check_request(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if value is None else Request.of(**value).to_dict()

    @model_validator(mode="after")
    def _check_one_way(self) -> "SparsityProfileModifier":
        given = [way for way in _WAYS if getattr(self, way) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(_WAYS)}; got {', '.join(given) or 'none'}")
        if (self.profile is None) != (self.request is None):
            raise ValueError("profile and request go together: profile: FOLDER, request: {sparsity: 0.25}")
        if self.profiles == [] or self.strategy == []:
            raise ValueError(f"{given[0]} must not be empty")
        return self

    def resolve(self) -> tuple[Strategy, ...]:
        """Answer the requests, or read the strategies; the second call returns what the first did.

        Raises:
            RecipeError: If two strategies are of one space, or a space cannot be applied.
            ProfileError: If a profile cannot be read.
            RequestError: If a request cannot be met.
            StrategyError: If a strategy cannot be read.
        """
        if self._strategies is None:
            strategies = self._read_strategies() if self.strategy is not None else self._answer()
            _check_spaces(strategies)
            self._strategies = strategies
        return self._strategies

    def check(self, model: nn.Module) -> None:
        """Compare the model with the one that each strategy was made for; :meth:`on_initialize` does not repeat it.

        Args:
            model: The model with all its blocks.

        Raises:
            ModelMismatchError: If it is another model, or other weights that were not accepted.
        """
        checked = []
        for strategy in self.resolve():
            if check_identity(model, strategy.model, accept_other_weights=self.accept_other_weights):
                carried = strategy.divergence.model_copy(update={"measured": False, "carried_over": True})
                strategy = strategy.model_copy(update={"divergence": carried})  # noqa: PLW2901 - the same strategy
            checked.append(strategy)
        self._strategies = tuple(checked)
        self._checked = True

    def check_recipe(self, modifiers: Sequence[Modifier]) -> None:
        """Refuse a recipe that cannot carry the strategies out, before a model is loaded.

        Args:
            modifiers: The recipe's modifiers, this one among them.

        Raises:
            RecipeError: If it holds a second one of this type, or nothing zeroes weights where a strategy wants it.
        """
        place = _find_alone(modifiers)
        sparse = any(strategy.space == "sparsity" for strategy in self.resolve())
        if self.levels is not None and not sparse:
            raise RecipeError("levels goes with a strategy of the space 'sparsity'; there is none")
        if sparse and self.levels is None:
            find_follower(modifiers[place + 1 :])

    @property
    def achieved(self) -> Achieved | None:
        """What became of a sparsity strategy's plan, once the toolkit has finalised; None where there is none."""
        return next((handler.achieved for handler in self._handlers if handler.achieved is not None), None)

    def on_initialize(self, state: State, **kwargs: Any) -> bool:  # noqa: ANN401 - the host's signature
        """Answer, check, bypass and fill; after an error the model is as it was."""
        modifiers = active_session().lifecycle.recipe.modifiers
        place = _find_alone(modifiers)
        if not self._checked:
            self.check(state.model)
        try:
            removed: frozenset[str] = frozenset()
            for strategy in sorted(self.resolve(), key=lambda strategy: list(HANDLERS).index(strategy.space)):
                self._handlers.append(self._handler(state.model, strategy))
                self._handlers[-1].start(modifiers, place, removed)
                removed |= self._handlers[-1].removed
        except BaseException:
            self._undo()
            raise
        return True

    def on_finalize(self, state: State, **kwargs: Any) -> bool:  # noqa: ANN401 - the host's signature
        """Drop; or restore, where the toolkit finalises only because a run was broken off."""
        if not _ran_to_its_end():
            self._undo()
            return True
        try:
            for handler in self._handlers:
                handler.finish()
        except BaseException:
            self._undo()
            raise
        self._store()
        return True

    def _handler(self, model: nn.Module, strategy: Strategy) -> SpaceHandler:
        if strategy.space == "sparsity" and self.levels is not None:
            return StitchHandler(model, strategy, self.levels)
        return HANDLERS[strategy.space](model, strategy)

    def _undo(self) -> None:
        for handler in reversed(self._handlers):
            handler.undo()

    def _store(self) -> None:
        """Put the strategies where ``recipe.yaml`` is written from, with profiles and requests as provenance."""
        resolved = [strategy.to_dict() for strategy in self.resolve()]
        if self.profile is not None:
            self.provenance = [{"profile": self.profile, "request": self.request}]
        elif self.profiles is not None:
            self.provenance = [entry.model_dump() for entry in self.profiles]
        elif isinstance(self.strategy, str):
            self.provenance = [{"strategy": self.strategy}]
        self.profile = self.request = self.profiles = None
        self.strategy = resolved[0] if len(resolved) == 1 else list(resolved)

    def _read_strategies(self) -> tuple[Strategy, ...]:
        given = self.strategy if isinstance(self.strategy, list) else [self.strategy]
        return tuple(
            Strategy.read(Path(entry)) if isinstance(entry, str) else Strategy.from_dict(entry) for entry in given
        )

    def _answer(self) -> tuple[Strategy, ...]:
        entries = self.profiles or [ProfileEntry(profile=self.profile or "", request=self.request or {})]
        return tuple(_load_profile(entry.profile).answer(Request.of(**entry.request)) for entry in entries)


def _load_profile(source: str) -> Any:  # noqa: ANN401 - imported late
    # Profiles bring the search's packages with them; a replayed strategy needs none of these.
    from unicuco_plugin.answering import load_profile  # noqa: PLC0415

    return load_profile(source)


def _check_spaces(strategies: tuple[Strategy, ...]) -> None:
    spaces = [strategy.space for strategy in strategies]
    for space in spaces:
        if space not in HANDLERS:
            raise RecipeError(f"space {space!r} cannot be applied by this version, only {', '.join(HANDLERS)}")
    twice = sorted({space for space in spaces if spaces.count(space) > 1})
    if twice:
        raise RecipeError(f"one strategy a space: {', '.join(twice)} is given {spaces.count(twice[0])} times")


def _find_alone(modifiers: Sequence[Modifier]) -> int:
    """Where the one of this type stands; two would each count blocks in a model that still has all of them."""
    places = [place for place, modifier in enumerate(modifiers) if isinstance(modifier, SparsityProfileModifier)]
    if len(places) != 1:
        raise RecipeError("one SparsityProfileModifier a recipe; give it several profiles with profiles: [...]")
    return places[0]


def _ran_to_its_end() -> bool:
    """Whether every modifier has seen the end of its calibration; a reset after a failure finalises them too."""
    lifecycle = active_session().lifecycle
    return lifecycle.initialized_ and all(modifier.ended_ for modifier in lifecycle.recipe.modifiers)
