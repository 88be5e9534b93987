"""What every space does inside the toolkit's lifecycle, and who does it for each."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llmcompressor.modifiers import Modifier
from torch import nn

from unicuco_plugin.costs.measure import half_costs, part_costs
from unicuco_plugin.models.blocks.decoder import Decoder, find_decoder
from unicuco_plugin.models.parts.formats import smallest_served
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.modifiers.carriers.achieved import Achieved
from unicuco_plugin.modifiers.carriers.compensating import Folding, check_compensation
from unicuco_plugin.modifiers.carriers.cutting import StructuredHandler
from unicuco_plugin.modifiers.carriers.engine_rounding import ENGINES
from unicuco_plugin.modifiers.carriers.removal import RemovalHandler
from unicuco_plugin.modifiers.carriers.sparsity import SparsityHandler
from unicuco_plugin.modifiers.carriers.stitching import StitchHandler
from unicuco_plugin.modifiers.carriers.storing import QuantiserHandler, StoreHandler
from unicuco_plugin.modifiers.carriers.structured_options import StructuredOptions
from unicuco_plugin.modifiers.toolkit.ranks import in_step, out_of_step, wait
from unicuco_plugin.payload import Payload
from unicuco_plugin.pruning import removed_parts
from unicuco_plugin.scores.ranked_parts import RankedParts
from unicuco_plugin.strategy import Strategy
from unicuco_plugin.traits import Effect, SpaceTraits

__all__ = ["Handlers", "SpaceHandler", "Task", "effect_places"]


class SpaceHandler(Protocol):
    """What one space does at the toolkit's events."""

    achieved: Achieved | None
    """What became of a plan of zeros, after ``finish``; None where there is none."""

    @property
    def removed(self) -> frozenset[str]:
        """Full names of the modules that will be gone at the end."""

    def start(self, modifiers: list[Modifier], place: int, removed: frozenset[str]) -> None:
        """Prepare the model and the recipe when the toolkit initialises; later modifiers are not yet initialised.

        Args:
            modifiers: The running recipe's own list, which may be changed behind ``place``.
            place: Where ``SparsityProfileModifier`` stands in it.
            removed: The modules that the handlers started before this one remove.
        """

    def finish(self) -> None:
        """Make the change for good when the toolkit finalises."""

    def undo(self) -> None:
        """Take back what ``start`` did; calling it again does nothing."""


@dataclass(frozen=True)
class Task:
    """What there is to carry out, and with what.

    Attributes:
        model: The model that the toolkit works on.
        fingerprint: Of this model while dense.
        strategy: Already checked to be this model's.
        levels: A level database's folder, where zeros or codes are to come from one.
        options: Of structured strategies.
        batches: The toolkit's calibration data.
        payload: Asks what strategies need beyond shares of the profiles that answered; called by handlers that need it.
        compensation: Name of what corrects for dropped blocks; None corrects nothing.
    """

    model: nn.Module
    fingerprint: str
    strategy: Strategy
    levels: str | None
    options: StructuredOptions
    batches: Iterable[Mapping[str, Any]] | None
    payload: Callable[[], Payload | None]
    compensation: str | None = None


def _removal(task: Task) -> SpaceHandler:
    folding = Folding(task.compensation, task.batches)
    if task.strategy.traits.halves:
        decoder, wanted = find_decoder(task.model), task.options.format
        removed_parts(decoder, task.strategy)
        parts = KeptParts(dict.fromkeys(task.strategy.units, ()), measured=True)
        counted = half_costs(decoder)
        # Of a profile that was trained for it; a form that is named otherwise is not for halves.
        if int(counted.of("params", counted.row(task.strategy.shares))) > task.strategy.params:
            wanted = "deci"
        if wanted == "deci" or (wanted == "auto" and smallest_served(decoder, parts) == "deci"):
            return StructuredHandler(task.model, parts, "deci", beside=False, folding=folding)
    return RemovalHandler(task.model, task.strategy, folding)


def _structured(task: Task) -> SpaceHandler:
    decoder = find_decoder(task.model)
    payload, format = task.payload(), str(task.options.format)
    parts = task.options.choose(decoder, task.strategy, task.batches, payload)
    if format == "auto":
        format = smallest_served(decoder, parts) or "compact"
    elif "format" not in task.options.model_fields_set and _is_uneven(decoder, task.strategy, payload):
        format = "deci" if smallest_served(decoder, parts) == "deci" else format
    return StructuredHandler(task.model, parts, format, folding=Folding(task.compensation, task.batches))


def _is_uneven(decoder: Decoder, strategy: Strategy, payload: Payload | None) -> bool:
    """Whether a strategy was found for the form ``deci``: its profile says so, or it counts no norms of what goes."""
    if payload is not None and RankedParts.of(payload).uneven:
        return True
    counted = part_costs(decoder, compensate=False)
    return strategy.params < int(counted.of("params", counted.row(strategy.shares)))


def _sparsity(task: Task) -> SpaceHandler:
    if task.levels is not None:
        return StitchHandler(task.model, task.fingerprint, task.strategy, task.levels)
    return SparsityHandler(task.model, task.strategy)


def _stored(task: Task) -> SpaceHandler:
    if task.levels is not None:
        return StoreHandler(task.model, task.fingerprint, task.strategy, task.levels)
    return QuantiserHandler(task.model, task.strategy)


# How each effect is carried out, in the order in which they start; a new effect adds its handler here. A strategy of
# several effects has a handler for each.
_HANDLERS: Mapping[Effect, Callable[[Task], SpaceHandler]] = {
    Effect.DROP: _removal,
    Effect.SILENCE: _removal,
    Effect.CUT: _structured,
    Effect.ZERO: _sparsity,
    Effect.STORE: _stored,
}


def effect_places(traits: SpaceTraits) -> list[int]:
    """Where a space's effects are in that order."""
    return [place for place, effect in enumerate(_HANDLERS) if effect & (traits.effect or Effect(0))]


class Handlers:
    """The handlers of one modifier's strategies, which start and finish together."""

    def __init__(self) -> None:
        self._all: list[SpaceHandler] = []
        self._later: Sequence[Modifier] = ()

    @property
    def achieved(self) -> Achieved | None:
        """The zeros that a sparsity strategy's plan led to, once finished; None without a plan."""
        return next((handler.achieved for handler in self._all if handler.achieved is not None), None)

    @property
    def levels(self) -> str | None:
        """Identity of the level database that weights were taken from, once finished; None where there was none."""
        found = (handler.levels for handler in self._all if isinstance(handler, StoreHandler))
        return next(found, None if self.achieved is None else self.achieved.levels)

    @property
    def format(self) -> str:
        """What a checkpoint of smaller modules is (:attr:`StructuredHandler.outcome`); empty where there is none."""
        return next((handler.outcome for handler in self._all if isinstance(handler, StructuredHandler)), "")

    @property
    def own_parts(self) -> bool:
        """Whether structured strategies got the parts and biases that they were measured with."""
        return all(handler.parts.measured for handler in self._all if isinstance(handler, StructuredHandler))

    @property
    def compensated(self) -> str:
        """What came of the compensation, in a sentence; empty where there was none."""
        return next((folding.said for folding in self._foldings if folding.said), "")

    @property
    def changed(self) -> bool:
        """Whether a correction was folded in, which a profile did not measure."""
        return any(folding.changed for folding in self._foldings)

    @property
    def _foldings(self) -> list[Folding]:
        return [one.folding for one in self._all if isinstance(one, RemovalHandler | StructuredHandler)]

    def start(self, tasks: Iterable[Task], modifiers: list[Modifier], place: int) -> None:
        """Start a handler for each task, those that remove modules first; after an error the model is as it was.

        Args:
            tasks: Of spaces that :func:`.together.check_spaces` has passed.
            modifiers: The running recipe's own list, which may be changed behind ``place``.
            place: Where ``SparsityProfileModifier`` stands in it.

        Raises:
            StrategyError, LevelsError, RecipeError: If one cannot be carried out, see the handlers.
            ModelMismatchError: If a level database is another model's.
            UnsupportedModelError: If the model cannot be pruned.
        """
        try:
            removed: frozenset[str] = frozenset()
            tasks = list(tasks)
            found = [(number, task) for task in tasks for number in effect_places(task.strategy.traits)]
            for number, task in sorted(found, key=lambda pair: pair[0]):
                check_compensation(task.compensation, [one.strategy.space for one in tasks], task.levels)
                self._all.append(list(_HANDLERS.values())[number](task))
                self._all[-1].start(modifiers, place, removed)
                removed |= self._all[-1].removed
            self._later = modifiers[place + 1 :]
            in_step(self._later, ENGINES, tasks[0].batches)
        except BaseException:
            self.undo()
            raise

    def finish(self) -> None:
        """Make the changes for good; after an error they are taken back, but for blocks that have been dropped."""
        try:
            for handler in self._all:
                handler.finish()
            out_of_step(self._later)
            wait()
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Take back what was started; calling it again does nothing."""
        out_of_step(self._later)
        for handler in reversed(self._all):
            handler.undo()
