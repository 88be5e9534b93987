"""From final states of a dense and of many pruned models to divergence, a few positions of logits at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.finite import check_finite
from unicuco_plugin.models.tensors.storage import count_parameters, resident
from unicuco_plugin.objectives.kl import Direction, kl_sums
from unicuco_plugin.objectives.work import Tell, ignore

__all__ = ["DivergenceHead"]


class DivergenceHead:
    """Compares final states on fixed windows; keeps no logits.

    Args:
        runner: The model, whose head makes logits of states.
        direction: ``forward`` for KL(dense‖pruned), ``reverse`` for KL(pruned‖dense).
        positions: Positions, of the dense model and one pruned one, whose logits exist at one time; at least two.
    """

    def __init__(self, runner: BlockRunner, *, direction: Direction = "forward", positions: int = 512) -> None:
        self.runner = runner
        self.direction = direction
        self.positions = positions

    @property
    def blocks(self) -> float:
        """Work of one comparison, in blocks of the model: as many as its head has weights."""
        block = count_parameters(self.runner.decoder.blocks[0])
        head = self.runner.decoder.model.get_output_embeddings()
        return count_parameters(head) / max(block, 1) if head is not None else 1.0

    def divergences(self, dense: Tensor, finals: Sequence[Tensor], tell: Tell = ignore) -> list[tuple[float, ...]]:
        """Mean divergence per window of each model.

        Args:
            dense: ``m x L x hidden`` final states of the dense model.
            finals: Those of each pruned model; one that *is* ``dense`` diverges by exactly 0.
            tell: Called with ``blocks`` for each model, window by window.

        Returns:
            ``m`` values for each of ``finals``, nats per token, at least 0: what float32 makes of two equal
            distributions may be a little less.

        Raises:
            EvaluationError: If states or a divergence are not finite.
        """
        self.runner.check()
        sums = torch.zeros(len(finals), len(dense), dtype=torch.float64)
        changed = [row for row, final in enumerate(finals) if final is not dense]
        if changed:
            sums[changed] = self._sums(dense, [finals[row] for row in changed], tell).cpu()
        check_finite("divergence", sums, dense.dtype)
        return [tuple(row.tolist()) for row in (sums / dense.shape[1]).clamp_min(0.0)]

    def _sums(self, dense: Tensor, finals: Sequence[Tensor], tell: Tell) -> Tensor:
        """Divergence summed over positions, models by windows.

        Every product of the head is of one model and of positions that do not depend on how many models there are:
        a value is the same bits whoever else is measured.
        """
        windows, length = dense.shape[:2]
        step = max(1, self.positions // 2)
        share = self.blocks * len(finals) / windows
        sums = []
        with resident():  # nothing but the head is run
            for window in range(windows):
                parts = []
                for start in range(0, length, step):
                    part = slice(start, start + step)
                    pruned = (self._logits(final[window, part]) for final in finals)
                    parts.append(kl_sums(self._logits(dense[window, part]), pruned, self.direction))
                sums.append(sum(parts[1:], parts[0]))
                tell(share)
        return torch.stack(sums, -1)

    def _logits(self, states: Tensor) -> Tensor:
        return self.runner.logits(states[None])[0]
