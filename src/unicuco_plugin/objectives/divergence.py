"""The built-in quality objective: divergence from the dense model."""

from typing import Any

from torch import Tensor

from unicuco_plugin.errors import LevelsError, UnknownNameError
from unicuco_plugin.objectives.evaluator import BlockEvaluator, lacking_parts
from unicuco_plugin.objectives.objective import Evaluation, ObjectiveRequest
from unicuco_plugin.objectives.stitched import StitchedEvaluator
from unicuco_plugin.spaces.plan import plan_counts

__all__ = ["DivergenceObjective"]


class DivergenceObjective:
    """Mean KL per token between the dense model and the pruned one, nats.

    Args:
        request: Model, space, windows, direction, and the level database for the space ``sparsity``.

    Raises:
        UnknownNameError: If the space is none that its evaluators know.
        LevelsError: If the space needs a level database and gets none, or one that does not fit the model.
    """

    def __init__(self, request: ObjectiveRequest) -> None:
        self._space = request.space
        fixed: dict[str, Any] = {"direction": request.direction, "batch_windows": request.batch_windows}
        self._blocks: BlockEvaluator | None = None
        self._decoder = request.decoder
        if request.space.name in ("depth", "sublayer"):
            self._blocks = BlockEvaluator(request.decoder, request.windows, **fixed)
            return
        if request.space.name != "sparsity":
            raise UnknownNameError(
                f"the divergence objective serves the spaces depth, sublayer and sparsity, got {request.space.name!r}"
            )
        if request.levels is None:
            raise LevelsError("the space 'sparsity' is measured on a level database, got none")
        self._sizes = request.levels.sizes
        self._stitched = StitchedEvaluator(request.decoder, request.levels, request.windows, **fixed)

    def evaluate(self, X: Tensor) -> list[Evaluation]:
        """Measure ``n x d`` strategies, one row each."""
        if self._blocks is not None and self._space.name == "sublayer":
            return self._blocks.evaluate_parts([lacking_parts(self._decoder, self._space.to_units(row)) for row in X])
        if self._blocks is not None:
            return self._blocks.evaluate([row.nonzero()[:, 0].tolist() for row in X])
        return self._stitched.evaluate([plan_counts(self._space.to_units(row), self._sizes) for row in X])
