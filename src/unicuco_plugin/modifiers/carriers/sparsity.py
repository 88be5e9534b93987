"""The space ``sparsity`` inside the toolkit's lifecycle: its next one-shot pass is told what each linear loses."""

from collections.abc import Mapping

from llmcompressor.modifiers import Modifier
from loguru import logger
from torch import nn

from unicuco_plugin.errors import RecipeError, StrategyError, quoted
from unicuco_plugin.models.blocks.coverage import check_share
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.modifiers.carriers.achieved import Achieved, Keeping
from unicuco_plugin.modifiers.carriers.engine_rounding import Follower, Setting, round_plan, tolerance
from unicuco_plugin.modifiers.carriers.follower import check_ignored, find_follower, warn_of_refilling
from unicuco_plugin.modifiers.carriers.plan_check import PlanCheck, PlannedLinear, count_zeros
from unicuco_plugin.spaces.plan import plan_counts
from unicuco_plugin.strategy import Strategy

__all__ = ["SparsityHandler"]

_DENSE = Setting(0.0, 0)


class SparsityHandler(Keeping):
    """Carries one sparsity strategy out by the next ``SparseGPTModifier`` or ``WandaPruningModifier`` of the recipe.

    That modifier gets ``targets``, the full names of the linears that lose something, in the model's order, and
    ``sparsity``, one number for each: the one whose count of zeros is nearest to the plan's. Linears that lose nothing
    are not among them and stay as they are, bit for bit. Fields that the recipe gives it are replaced.

    Args:
        model: The model that the toolkit works on.
        strategy: A strategy of the space ``sparsity``, already checked to be this model's.

    Raises:
        StrategyError: If its units cover no linears of the model.
        UnsupportedModelError: If the model cannot be pruned, or its linears are too few for the strategy's share.
    """

    def __init__(self, model: nn.Module, strategy: Strategy) -> None:
        if not strategy.traits.zeroes:
            raise StrategyError(f"space must be 'sparsity' for weights to be zeroed, got {quoted(strategy.space)}")
        decoder = find_decoder(model)
        self._blocks = decoder.blocks  # which may go, or be cut, meanwhile
        check_share(decoder, strategy.sparsity)
        self._model = model
        self._linears = decoder.all_linears()
        self._plan = plan_counts(
            strategy.shares, {name: linear.weight.numel() for name, linear in self._linears.items()}
        )
        self._modifiers: list[Modifier] = []
        self._follower: Follower | None = None
        self._before: tuple[object, object] = (None, None)
        self._check: PlanCheck | None = None

    def start(self, modifiers: list[Modifier], place: int, removed: frozenset[str]) -> None:
        """Fill the next one-shot pass, and put a check of what it did behind it.

        Raises:
            RecipeError: If there is none, it has a mask or profile of its own, its ``ignore`` hits a planned linear,
                or nothing is planned.
        """
        follower = find_follower(modifiers[place + 1 :])
        # Dropped blocks are bypassed: they see no calibration text, and the checkpoint lacks them.
        kept = {
            name: linear
            for name, linear in self._linears.items()
            if not any(name.startswith(f"{module}.") for module in removed)
        }
        settings = {
            name: round_plan(follower, self._plan.get(name, 0), linear.out_features, linear.in_features)
            for name, linear in kept.items()
        }
        filled = {name: setting for name, setting in settings.items() if setting != _DENSE}
        if not filled:
            raise RecipeError(f"the strategy zeroes no weight of the {len(kept)} linears; leave it out of the recipe")
        check_ignored(follower, {name: kept[name] for name in filled})
        self._modifiers, self._follower = modifiers, follower
        self._before = (follower.targets, follower.sparsity)
        self._say(follower, filled)
        follower.targets = list(filled)
        follower.sparsity = [setting.sparsity for setting in filled.values()]
        # Unused by the toolkit, which warns when recipe.yaml brings its own default back.
        follower.sequential_update = True
        self._check = PlanCheck.of(self._watch(follower, kept, filled), type(follower).__name__)
        behind = next(index for index, modifier in enumerate(modifiers) if modifier is follower) + 1
        warn_of_refilling(follower, modifiers[behind:])
        modifiers.insert(behind, self._check)

    def finish(self) -> None:
        """Make sure that the plan was carried out, and say how well.

        Raises:
            ExportError: If it was not.
        """
        if self._check is None or self._follower is None:
            return
        self._remove_check()
        self._check.verify()
        # A silenced sub-layer stays and was not pruned.
        counts = {name: count for name, count in self._check.counts.items() if self._plan.get(name)}
        engine = type(self._follower).__name__
        self.achieved = Achieved.of(
            self._model, engine, self._linears, planned=self._plan, achieved=counts, blocks=self._blocks
        )
        logger.info(f"SparsityProfileModifier: {self.achieved.describe()}")
        lost = self.achieved.total("achieved") - self.achieved.total("exported")
        if lost > 0:
            logger.warning(
                f"SparsityProfileModifier: a later modifier filled {lost:,} of the "
                f"{self.achieved.total('achieved'):,} zeros that {self.achieved.engine} had made"
            )

    def undo(self) -> None:
        """Give the pass its own fields back; calling it again does nothing. Weights already zeroed stay so."""
        if self._follower is not None:
            self._follower.targets, self._follower.sparsity = self._before
            self._follower = None
        self._remove_check()

    def _remove_check(self) -> None:
        if self._check is not None:
            self._check.forget()
        self._modifiers[:] = [modifier for modifier in self._modifiers if modifier is not self._check]

    def _watch(
        self, follower: Follower, kept: Mapping[str, nn.Linear], filled: Mapping[str, Setting]
    ) -> dict[str, PlannedLinear]:
        watched = {}
        for name, linear in kept.items():
            planned = self._plan.get(name, 0)
            slack = tolerance(follower, linear.out_features, linear.in_features) if planned else 0
            before = count_zeros(linear)
            if name not in filled:  # planned or not, it must stay as it is
                planned, slack = 0, 0
            watched[name] = PlannedLinear(linear, planned, slack, before)
        return watched

    def _say(self, follower: Follower, filled: Mapping[str, Setting]) -> None:
        shares = [setting.sparsity for setting in filled.values()]
        logger.info(
            f"SparsityProfileModifier: {type(follower).__name__} gets {len(filled)} linears to prune, by "
            f"{min(shares):.4f} to {max(shares):.4f}; its own sparsity ({follower.sparsity}) and targets "
            f"({follower.targets}) are replaced"
        )
