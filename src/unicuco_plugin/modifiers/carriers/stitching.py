"""The space ``sparsity`` without a pass: weights stitched from a level database inside the toolkit's lifecycle."""

from pathlib import Path

from llmcompressor.modifiers import Modifier
from loguru import logger
from torch import nn

from unicuco_plugin.errors import ExportError, RecipeError, StrategyError, quoted
from unicuco_plugin.levels.stitch import Stitcher
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.modifiers.carriers.achieved import Achieved, Keeping
from unicuco_plugin.modifiers.carriers.plan_check import count_zeros
from unicuco_plugin.spaces.plan import plan_counts
from unicuco_plugin.strategy import Strategy

__all__ = ["StitchHandler"]

_ENGINE = "level database"


class StitchHandler(Keeping):
    """Gives every linear the zeros of one sparsity strategy, to the weight, from a database; no text is needed.

    Later modifiers of the recipe, a quantiser for instance, meet the stitched weights.

    Args:
        model: The model that the toolkit works on.
        fingerprint: Of this model while dense.
        strategy: A strategy of the space ``sparsity``, already checked to be this model's.
        levels: The database's folder.

    Raises:
        LevelsError: If the database is missing, unfinished or damaged, or does not fit the model.
        ModelMismatchError: If it was built from another model.
        StrategyError: If the strategy is of another space, or its units cover no linears of the database.
        UnsupportedModelError: If the model cannot be pruned.
    """

    def __init__(self, model: nn.Module, fingerprint: str, strategy: Strategy, levels: str | Path) -> None:
        if not strategy.traits.zeroes:
            raise StrategyError(f"space must be 'sparsity' for weights to be zeroed, got {quoted(strategy.space)}")
        self._model = model
        decoder = find_decoder(model)
        self._blocks = decoder.blocks  # which may go, or be cut, meanwhile
        database = Levels.open(levels, fingerprint=fingerprint)
        self._plan = plan_counts(strategy.shares, database.sizes)
        self._linears = decoder.all_linears()
        self._before = {name: count_zeros(self._linears[name]) for name in self._plan}
        self._database = database.record.identity
        self._stitcher = Stitcher(decoder, database, cache_bytes=0)
        self._removed: frozenset[str] = frozenset()
        self._made: dict[str, int] = {}

    def start(self, modifiers: list[Modifier], place: int, removed: frozenset[str]) -> None:
        """Stitch everything but the blocks that will be gone.

        Raises:
            RecipeError: If nothing is planned for what will be left.
            LevelsError: If a file of the database is damaged; the model is then dense.
            ExportError: If a linear has not the zeros that were planned.
        """
        gone = tuple(f"{module}." for module in removed)
        plan = {name: count for name, count in self._plan.items() if not (gone and name.startswith(gone))}
        if not any(plan.values()):
            raise RecipeError(f"the strategy zeroes no weight of the {len(plan)} linears; leave it out of the recipe")
        self._stitcher.apply(plan)
        self._made = {name: count_zeros(self._linears[name]) for name in plan}
        wrong = [name for name, count in plan.items() if self._made[name] != max(count, self._before[name])]
        if wrong:
            raise ExportError(f"{wrong[0]}: planned {plan[wrong[0]]} zeros, stitched {self._made[wrong[0]]}")

    def finish(self) -> None:
        """Say what was done."""
        self.achieved = Achieved.of(
            self._model,
            _ENGINE,
            self._linears,
            planned=self._plan,
            achieved=self._made,
            blocks=self._blocks,
            levels=self._database,
        )
        logger.info(f"SparsityProfileModifier: {self.achieved.describe()}")

    def undo(self) -> None:
        """Put the dense weights back; calling it again does nothing."""
        self._stitcher.restore()
