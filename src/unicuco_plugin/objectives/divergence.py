"""The built-in quality objective: divergence from the dense model."""

from torch import Tensor

from unicuco_plugin.objectives.objective import Evaluation, ObjectiveRequest, Report
from unicuco_plugin.objectives.units import UnitsEvaluator
from unicuco_plugin.objectives.work import ignore

__all__ = ["DivergenceObjective"]


class DivergenceObjective:
    """Mean KL per token between the dense model and the pruned one, nats.

    Args:
        request: Model, space, windows, direction, the level database for the space ``sparsity``, the payload
            for ``structured``, corrections for ``depth``.

    Raises:
        UnknownNameError: If no evaluator knows the space.
        LevelsError: If the space needs a level database and gets none, or one that does not fit the model.
        CalibrationError: If the space needs ranked parts and gets none.
        StrategyError: If there are corrections, and blocks of the space do not go whole.
    """

    def __init__(self, request: ObjectiveRequest) -> None:
        self._space = request.space
        self._evaluator = UnitsEvaluator(
            request.decoder,
            request.space.name,
            request.windows,
            levels=request.levels,
            payload=request.payload,
            corrections=request.corrections,
            direction=request.direction,
            batch_windows=request.batch_windows,
        )

    def evaluate(self, X: Tensor) -> list[Evaluation]:
        """Measure ``n x d`` strategies, one row each."""
        return self.evaluate_reporting(X, ignore)

    def evaluate_reporting(self, X: Tensor, report: Report) -> list[Evaluation]:
        """Like ``evaluate``; calls ``report`` with how many strategies are done."""
        return self._evaluator.evaluate([self._space.to_units(row) for row in X], report)
