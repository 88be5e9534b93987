"""The built-in quality objective: divergence from the dense model."""

from torch import Tensor

from unicuco_plugin.errors import UnknownNameError
from unicuco_plugin.objectives.evaluator import BlockEvaluator
from unicuco_plugin.objectives.objective import Evaluation, ObjectiveRequest

__all__ = ["DivergenceObjective"]


class DivergenceObjective:
    """Mean KL per token between the dense model and the pruned one, nats.

    Args:
        request: Model, space, windows and direction.

    Raises:
        UnknownNameError: If the space is none that its evaluator knows.
    """

    def __init__(self, request: ObjectiveRequest) -> None:
        if request.space.name != "depth":
            raise UnknownNameError(f"the divergence objective serves the space depth, got {request.space.name!r}")
        self._evaluator = BlockEvaluator(
            request.decoder, request.windows, direction=request.direction, batch_windows=request.batch_windows
        )

    def evaluate(self, X: Tensor) -> list[Evaluation]:
        """Measure ``n x d`` strategies, one row each."""
        return self._evaluator.evaluate([row.nonzero()[:, 0].tolist() for row in X])
