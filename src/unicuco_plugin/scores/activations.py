r"""The pruning scores ``A = |W| · ||X||`` of every block, which OWL and DLP start from.

``W`` is a linear's ``R x C`` weight, ``X`` what enters it at all positions, and ``||X||_j`` the Euclidean norm of its
column ``j``; ``A_ij = |W_ij| ||X||_j`` (Wanda, Sun et al. 2024). Both methods use ratios of ``A`` alone, so its scale,
which grows with the number of positions, is of no account.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.memory import Fitting
from unicuco_plugin.models.tensors.storage import resident
from unicuco_plugin.progress import Progress

__all__ = ["block_scores"]


@torch.inference_mode()
def block_scores(
    decoder: Decoder,
    windows: Tensor,
    *,
    batch_windows: int = 16,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Iterator[Tensor]:
    """Run the dense model block by block and score its weights.

    Args:
        decoder: The dense model.
        windows: ``m x L`` calibration windows.
        batch_windows: Windows run through a block together.
        progress: Called before each block and at the end.

    Yields:
        For every block in order, ``A`` of all its linears as one flat float32 tensor on the model's device. A linear
        that no token reached (an expert) scores 0.

    Raises:
        UnsupportedModelError: If the blocks have no linears.
        EvaluationError: If states are not finite, or memory has no room for one window.
    """
    decoder.all_linears()
    runner, fitting = BlockRunner(decoder, windows.shape[1]), Fitting(batch_windows)
    states = fitting(lambda size: torch.cat([runner.embed(part) for part in windows.split(size)]))
    count = len(decoder.blocks)
    for index in range(count):
        progress(Progress("scoring blocks", index, count, index * windows.numel() // count))
        with resident():
            squares, states = fitting(partial(_squares, runner, index, states))
        linears = decoder.linears(index)
        yield torch.cat(
            [
                (linear.weight.detach().float().abs() * squares[name].sqrt()).flatten()
                for name, linear in linears.items()
            ]
        )
    progress(Progress("scoring blocks", count, count, windows.numel()))


def _squares(runner: BlockRunner, index: int, states: Tensor, batch_windows: int) -> tuple[dict[str, Tensor], Tensor]:
    """Sums of squares of every linear's inputs, and the states that leave the block."""
    linears = runner.decoder.linears(index)
    sums = {name: linear.weight.new_zeros(linear.in_features, dtype=torch.float32) for name, linear in linears.items()}

    def add(name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        sums[name] += args[0].float().square().flatten(0, -2).sum(0)

    hooks = [linear.register_forward_pre_hook(partial(add, name)) for name, linear in linears.items()]
    try:
        leaving = torch.cat([runner.run(index, part) for part in states.split(batch_windows)])
    finally:
        for hook in hooks:
            hook.remove()
    runner.check()
    return sums, leaving
