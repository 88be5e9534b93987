"""The space ``sparsity`` inside the toolkit's lifecycle: its next one-shot pass is told what each linear loses."""

from collections.abc import Mapping, Sequence

from compressed_tensors.utils import match_targets
from llmcompressor.core import State
from llmcompressor.modifiers import Modifier
from loguru import logger
from torch import nn

from unicuco_plugin.errors import RecipeError, StrategyError, listed, quoted
from unicuco_plugin.models.blocks.coverage import check_share
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.tensors.storage import count_parameters
from unicuco_plugin.modifiers.carriers.achieved import Achieved, LinearSparsity
from unicuco_plugin.modifiers.carriers.engine_rounding import ENGINES, Follower, Setting, round_plan, tolerance
from unicuco_plugin.modifiers.carriers.plan_check import PlanCheck, PlannedLinear, count_zeros
from unicuco_plugin.modifiers.toolkit.windows import check_samples
from unicuco_plugin.spaces.plan import plan_counts
from unicuco_plugin.strategy import Strategy
from unicuco_plugin.traits import cutting, zeroing

__all__ = ["SparsityHandler", "check_carrier", "check_text", "find_follower"]

_DENSE = Setting(0.0, 0)


class SparsityHandler:
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
            strategy.units, {name: linear.weight.numel() for name, linear in self._linears.items()}
        )
        self._modifiers: list[Modifier] = []
        self._follower: Follower | None = None
        self._before: tuple[object, object] = (None, None)
        self._check: PlanCheck | None = None
        self.achieved: Achieved | None = None

    @property
    def removed(self) -> frozenset[str]:
        """No module goes."""
        return frozenset()

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
        _check_ignored(follower, {name: kept[name] for name in filled})
        self._modifiers, self._follower = modifiers, follower
        self._before = (follower.targets, follower.sparsity)
        self._say(follower, filled)
        follower.targets = list(filled)
        follower.sparsity = [setting.sparsity for setting in filled.values()]
        # Unused by the toolkit, which warns when recipe.yaml brings its own default back.
        follower.sequential_update = True
        self._check = PlanCheck.of(self._watch(follower, kept, filled), type(follower).__name__)
        behind = next(index for index, modifier in enumerate(modifiers) if modifier is follower) + 1
        _warn_of_refilling(follower, modifiers[behind:])
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
        names = {id(module): name for name, module in self._model.named_modules()}
        left = {name: linear for name, linear in self._linears.items() if id(linear) in names}
        linears = [
            LinearSparsity(
                name=name,
                exported_as=names[id(linear)],
                weights=linear.weight.numel(),
                planned=self._plan[name],
                achieved=self._check.counts[name],
                exported=count_zeros(linear),
            )
            for name, linear in left.items()
            if self._plan.get(name) and name in self._check.counts  # a silenced sub-layer stays and was not pruned
        ]
        weights = sum(linear.weight.numel() for linear in left.values())
        blocks = count_parameters(self._blocks)
        self.achieved = Achieved(type(self._follower).__name__, weights, tuple(linears), blocks)
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


def find_follower(modifiers: Sequence[Modifier]) -> Follower:
    """Find the modifier that carries a sparsity strategy out.

    Args:
        modifiers: Those after ``SparsityProfileModifier`` in the recipe.

    Returns:
        The first ``SparseGPTModifier`` or ``WandaPruningModifier``.

    Raises:
        RecipeError: If there is none, or it has an N:M mask or takes its sparsities from OWL.
    """
    follower = next((modifier for modifier in modifiers if isinstance(modifier, ENGINES)), None)
    if follower is None:
        names = " or ".join(engine.__name__ for engine in ENGINES)
        found = ", ".join(type(modifier).__name__ for modifier in modifiers) or "nothing"
        raise RecipeError(
            f"a strategy of the space 'sparsity' needs {names} after SparsityProfileModifier, which zeroes the "
            f"weights; {found} follows"
        )
    name = type(follower).__name__
    if follower.mask_structure != "0:0":
        raise RecipeError(
            f"{name}: mask_structure must be '0:0' to be filled by a strategy, got {follower.mask_structure!r}: an N:M "
            "mask gives every linear the same sparsity"
        )
    if follower.sparsity_profile is not None:
        raise RecipeError(
            f"{name}: sparsity_profile must be left out to be filled by a strategy, got {follower.sparsity_profile!r}"
        )
    return follower


def check_carrier(spaces: Sequence[str], levels: str | None, later: Sequence[Modifier]) -> None:
    """Make sure that exactly one thing zeroes what a sparsity strategy says: a pass, or a level database.

    Args:
        spaces: Those of the strategies.
        levels: The level database's folder, if weights are stitched.
        later: The modifiers after ``SparsityProfileModifier``.

    Raises:
        RecipeError: If there is none or there are two, or a level database has nothing to carry out.
    """
    if levels is None:
        if zeroing(spaces):
            find_follower(later)
        return
    if not zeroing(spaces):
        raise RecipeError("levels goes with a strategy of the space 'sparsity'; there is none")
    if cutting(spaces):
        raise RecipeError(
            "levels holds the dense model's linears, and a strategy of the space 'structured' makes them smaller; "
            "leave levels out and let SparseGPTModifier or WandaPruningModifier follow"
        )
    again = next((type(modifier).__name__ for modifier in later if isinstance(modifier, ENGINES)), None)
    if again is not None:
        raise RecipeError(
            f"levels stitches the strategy's zeros already, and {again} would prune once more; leave one of them out"
        )


def check_text(spaces: Sequence[str], levels: str | None, state: State) -> None:
    """Refuse a pass without text here, where the toolkit would fail on it in its own words.

    Raises:
        RecipeError: If a pass carries a sparsity strategy out, and the toolkit has no calibration data.
        CalibrationError: If it has some without samples.
    """
    check_samples(None if state.data is None else state.data.calib)
    if zeroing(spaces) and levels is None and (state.data is None or state.data.calib is None):
        raise RecipeError("a sparsity strategy's pass reads calibration text, got none; give oneshot a dataset")


def _check_ignored(follower: Follower, planned: Mapping[str, nn.Linear]) -> None:
    # With a linear as its target the toolkit matches the name with a dot behind it, which "$" misses: it would prune
    # what the recipe says to ignore.
    hit = [
        name
        for name, linear in planned.items()
        if match_targets(name, linear, follower.ignore) or match_targets(f"{name}.", linear, follower.ignore)
    ]
    if hit:
        told = listed(hit, rest=" and {} more")
        raise RecipeError(
            f"{type(follower).__name__}: ignore {follower.ignore} hits linears that the strategy prunes: {told}; "
            "take the pattern out, or freeze them when the profile is trained"
        )


def _warn_of_refilling(follower: Follower, later: Sequence[Modifier]) -> None:
    if any(type(modifier).__name__ == "GPTQModifier" for modifier in later):
        logger.warning(
            f"GPTQModifier after {type(follower).__name__} fills zeros again (0.700 fell to 0.663 in one of our runs); "
            "QuantizationModifier keeps all of them"
        )
