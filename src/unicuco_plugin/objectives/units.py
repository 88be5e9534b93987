"""Divergence of strategies given as units, in whatever space they are."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from unicuco_plugin.errors import CalibrationError, LevelsError, UnknownNameError
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.objectives.evaluator import DROPPED, KEPT, BlockEvaluator, lacking_parts
from unicuco_plugin.objectives.kl import Direction
from unicuco_plugin.objectives.objective import Evaluation, Report
from unicuco_plugin.objectives.reduced import ReducedEvaluator
from unicuco_plugin.objectives.stitched import StitchedEvaluator
from unicuco_plugin.objectives.work import ignore
from unicuco_plugin.scores.ranked_parts import RankedParts
from unicuco_plugin.spaces.plan import plan_counts

__all__ = ["UnitsEvaluator"]


class UnitsEvaluator:
    """Measures KL between a dense model and itself pruned, on fixed windows.

    Args:
        decoder: The dense model; dense again after every call.
        space: ``depth``, ``sublayer``, ``structured`` or ``sparsity``; units of the last may be blocks, sub-layers or
            linears.
        windows: ``m x L`` token ids.
        levels: The level database that ``sparsity`` is stitched from.
        ranked: Which parts of a module go first, for ``structured``.
        direction: ``forward`` for KL(dense‖pruned), ``reverse`` for KL(pruned‖dense).
        batch_windows: Windows that pass a block together.

    Raises:
        UnknownNameError: If it is another space.
        LevelsError: If the space needs a level database and gets none, or one that does not fit the model.
        CalibrationError: If it needs ranked parts and gets none.
    """

    def __init__(
        self,
        decoder: Decoder,
        space: str,
        windows: Tensor,
        *,
        levels: Levels | None = None,
        ranked: RankedParts | None = None,
        direction: Direction = "forward",
        batch_windows: int = 16,
    ) -> None:
        self._decoder, self._space = decoder, space
        fixed: dict[str, Any] = {"direction": direction, "batch_windows": batch_windows}
        self._blocks: BlockEvaluator | None = None
        self._reduced: ReducedEvaluator | None = None
        if space in ("depth", "sublayer"):
            self._blocks = BlockEvaluator(decoder, windows, **fixed)
            return
        if space == "structured":
            if ranked is None:
                raise CalibrationError("the space 'structured' is measured with ranked parts, got none")
            self._ranked, self._reduced = ranked, ReducedEvaluator(decoder, windows, **fixed)
            return
        if space != "sparsity":
            raise UnknownNameError(
                f"the divergence objective serves the spaces depth, sublayer, structured and sparsity, got {space!r}"
            )
        if levels is None:
            raise LevelsError("the space 'sparsity' is measured on a level database, got none")
        self._sizes = levels.sizes
        self._stitched = StitchedEvaluator(decoder, levels, windows, **fixed)

    def evaluate(self, strategies: Sequence[Mapping[str, float]], report: Report = ignore) -> list[Evaluation]:
        """Measure strategies, each unit → share removed; tells ``report`` how many are done."""
        if self._blocks is not None:
            return self._blocks.evaluate_parts([self._parts(units) for units in strategies], report)
        if self._reduced is not None:
            return self._reduced.evaluate([self._ranked.keep(self._decoder, units) for units in strategies], report)
        return self._stitched.evaluate([plan_counts(units, self._sizes) for units in strategies], report)

    def _parts(self, units: Mapping[str, float]) -> list[int]:
        if self._space == "sublayer":
            return lacking_parts(self._decoder, units)
        return [DROPPED if name in units else KEPT for name in self._decoder.block_names]
