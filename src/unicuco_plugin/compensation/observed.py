"""What is seen of one cut: moments of the states that pass the block before it, and of the target behind it."""

import torch
from torch import Tensor

from unicuco_plugin.compensation.dense_states import DenseStates
from unicuco_plugin.compensation.methods import Cut
from unicuco_plugin.compensation.moments import Moments, Weigh
from unicuco_plugin.compensation.projection import Projection
from unicuco_plugin.models.tensors.storage import resident

__all__ = ["observe_cut"]


def observe_cut(
    dense: DenseStates,
    index: int,
    projection: Projection | None,
    between: tuple[list[Tensor], list[Tensor]],
    weigh: Weigh,
) -> Cut:
    """Run the block before a cut, and gather moments.

    Args:
        dense: Says which batches are held out, and runs.
        index: The block.
        projection: Whose inputs are looked at; None for methods that change none.
        between: States that enter the block, ``b x L x d`` for each batch, and the dense model's behind the cut.
        weigh: Weighs rows.

    """
    entering, targets = between
    weight = torch.zeros(targets[0].shape[-1], 0) if projection is None else projection.weight
    moments: list[Moments] = []
    given: list[Tensor] = []
    hook = projection and projection.module.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    try:
        with resident():
            for place, (states, target) in enumerate(zip(entering, targets, strict=True)):
                left = dense.runner.run(index, states)
                inputs = given.pop().reshape(*states.shape[:2], -1) if given else states[..., :0]
                device = left.device  # the next kept block may be on another
                if not moments:
                    weight = weight.to(device)
                    moments = [Moments.zeros(weight.shape[1], weight.shape[0], device) for _ in range(2)]
                own = moments[place < dense.held]
                own.add(inputs.to(device), left, target.to(device), weigh)
    finally:
        if hook:
            hook.remove()
    return Cut(weight.double(), 1.0 if projection is None else projection.scale, *moments)
