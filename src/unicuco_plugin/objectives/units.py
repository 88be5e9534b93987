"""Divergence of strategies given as units, in whatever space they are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unicuco_plugin.compensation.corrections import Corrections
from unicuco_plugin.errors import CalibrationError, LevelsError, StrategyError, UnknownNameError
from unicuco_plugin.levels.database import Database
from unicuco_plugin.levels.exchange import Stitching, Storing
from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.objectives.evaluator import DROPPED, KEPT, BlockEvaluator, lacking_parts
from unicuco_plugin.objectives.kl import Direction
from unicuco_plugin.objectives.levelled import LevelEvaluator
from unicuco_plugin.objectives.objective import Evaluation, Report
from unicuco_plugin.objectives.reduced import ReducedEvaluator
from unicuco_plugin.objectives.work import ignore
from unicuco_plugin.payload import Payload
from unicuco_plugin.scores.ranked_parts import RankedParts
from unicuco_plugin.spaces.plan import plan_counts, plan_schemes
from unicuco_plugin.traits import SPACES, Effect, traits_of

__all__ = ["UnitsEvaluator"]

Measure = Callable[[Sequence[Mapping[str, Any]], Report], list[Evaluation]]


@dataclass(frozen=True)
class _Means:
    """What there is to measure with; ``fixed`` goes to every evaluator alike."""

    decoder: Decoder
    space: str
    windows: Tensor
    levels: Database | None
    payload: Payload | None
    corrections: Corrections | None
    fixed: Mapping[str, Any]


def _drop(means: _Means) -> Measure:
    evaluator = BlockEvaluator(means.decoder, means.windows, corrections=means.corrections, **means.fixed)
    names = means.decoder.block_names
    return lambda strategies, report: evaluator.evaluate_parts(
        [[DROPPED if name in units else KEPT for name in names] for units in strategies], report
    )


def _silence(means: _Means) -> Measure:
    evaluator = BlockEvaluator(means.decoder, means.windows, corrections=means.corrections, **means.fixed)
    return lambda strategies, report: evaluator.evaluate_parts(
        [lacking_parts(means.decoder, units) for units in strategies], report
    )


def _cut(means: _Means) -> Measure:
    if means.payload is None:
        raise CalibrationError(f"the space {means.space!r} is measured with ranked parts, got none")
    evaluator = ReducedEvaluator(means.decoder, means.windows, corrections=means.corrections, **means.fixed)
    ranked = RankedParts.of(means.payload)
    return lambda strategies, report: evaluator.evaluate(
        [ranked.keep(means.decoder, units) for units in strategies], report
    )


def _zero(means: _Means) -> Measure:
    levels = means.levels
    if not isinstance(levels, Levels):
        raise LevelsError(f"the space {means.space!r} is measured on a level database of sparsities, got none")
    evaluator, sizes = LevelEvaluator(Stitching(means.decoder, levels), means.windows, **means.fixed), levels.sizes
    return lambda strategies, report: evaluator.evaluate([plan_counts(units, sizes) for units in strategies], report)


def _store(means: _Means) -> Measure:
    levels = means.levels
    if not isinstance(levels, SchemeLevels):
        raise LevelsError(f"the space {means.space!r} is measured on a level database of schemes, got none")
    evaluator, names = LevelEvaluator(Storing(means.decoder, levels), means.windows, **means.fixed), list(levels.shapes)

    def measure(strategies: Sequence[Mapping[str, Any]], report: Report) -> list[Evaluation]:
        gone = [[unit for unit, own in units.items() if not isinstance(own, str)] for units in strategies]
        schemes = [{unit: own for unit, own in units.items() if isinstance(own, str)} for units in strategies]
        return evaluator.evaluate([plan_schemes(units, names) for units in schemes], report, gone=gone)

    return measure


# Who measures what; a new effect adds its evaluator here.
_MEASURES: Mapping[Effect | None, Callable[[_Means], Measure]] = {
    Effect.DROP: _drop,
    Effect.SILENCE: _silence,
    Effect.CUT: _cut,
    Effect.ZERO: _zero,
    Effect.STORE: _store,
    Effect.DROP | Effect.STORE: _store,
}


class UnitsEvaluator:
    """Measures KL between a dense model and itself pruned, on fixed windows.

    Args:
        decoder: The dense model; dense again after every call.
        space: Its name; what its strategies do to a model decides who measures. Where weights are zeroed units may be
            blocks, sub-layers or linears.
        windows: ``m x L`` token ids.
        levels: The level database that zeroed or stored weights are taken from.
        payload: What strategies need beyond shares: which parts of a module go first, where parts are cut.
        corrections: What dropped blocks are compensated with; None measures strategies as they are.
        direction: ``forward`` for KL(dense‖pruned), ``reverse`` for KL(pruned‖dense).
        batch_windows: Windows that pass a block together.

    Raises:
        UnknownNameError: If nobody says what the space's strategies do.
        LevelsError: If the space needs a level database and gets none, or one that does not fit the model.
        CalibrationError: If it needs ranked parts and gets none.
        StrategyError: If there are corrections, and its strategies do more than remove blocks or parts of them.
    """

    def __init__(
        self,
        decoder: Decoder,
        space: str,
        windows: Tensor,
        *,
        levels: Database | None = None,
        payload: Payload | None = None,
        corrections: Corrections | None = None,
        direction: Direction = "forward",
        batch_windows: int = 16,
    ) -> None:
        make = _MEASURES.get(traits_of(space).effect)
        if make is None:
            raise UnknownNameError(f"the divergence objective serves the spaces {', '.join(SPACES)}, got {space!r}")
        if corrections is not None and not traits_of(space).corrected:
            raise StrategyError(f"compensation {corrections.name} corrects what leaves, not what {space!r} changes")
        fixed = {"direction": direction, "batch_windows": batch_windows}
        self._measure = make(_Means(decoder, space, windows, levels, payload, corrections, fixed))

    def evaluate(self, strategies: Sequence[Mapping[str, Any]], report: Report = ignore) -> list[Evaluation]:
        """Measure strategies, each unit → share removed, or scheme; tells ``report`` how many are done."""
        return self._measure(strategies, report)
