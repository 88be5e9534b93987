"""A block, or half of one, with its correction: what a search measures, and what an export folds in."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from torch import Tensor

from unicuco_plugin.compensation.projection import Projection
from unicuco_plugin.models.tensors.finite import check_finite
from unicuco_plugin.models.tensors.sending import sent
from unicuco_plugin.models.tensors.storage import exchanged

__all__ = ["Corrected"]


@dataclass(frozen=True)
class Corrected:
    """A block before a cut, as it computes with its correction.

    Attributes:
        projection: What changes; None where nothing does, or no single one.
        values: New values of its parameters, in the host's memory.
        gain: Factor of the states that leave the block.
        finite: Whether there is a correction that could be applied.
    """

    projection: Projection | None = None
    values: Mapping[str, Tensor] = field(default_factory=dict)
    gain: float = 1.0
    finite: bool = True

    @classmethod
    def of(cls, projection: Projection, whole: Tensor, *, biased: bool) -> "Corrected":
        """With a projection's new weights.

        Args:
            projection: That changes.
            whole: ``d x c``, what it becomes; ``c`` may be smaller, where inputs went.
            biased: Whether the last column is a bias.

        Raises:
            EvaluationError: If they are not finite in the projection's dtype.
        """
        values = {name: value.cpu() for name, value in projection.parameters(whole, biased=biased).items()}
        for value in values.values():
            check_finite("the correction", value, value.dtype)
        return cls(projection, values)

    def run(self, block: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
        """States that leave the block once it is corrected.

        Args:
            block: The dense one.
            states: That enter it.
        """
        with ExitStack() as changed:
            if self.projection is not None:
                module = self.projection.module
                device = module.weight.device  # it may have no bias yet
                values = {name: sent(value, device) for name, value in self.values.items()}
                changed.enter_context(exchanged(module, values))
            left = block(states)
        return left if self.gain == 1.0 else left * self.gain

    @property
    def nbytes(self) -> int:
        """What keeping it takes."""
        return sum(value.nbytes for value in self.values.values())
