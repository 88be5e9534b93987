"""What is seen of one cut: moments of what passes the block before it, and of the target behind it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import TypeAlias

import torch
from torch import Tensor

from unicuco_plugin.compensation.cut import Crosses, Cut
from unicuco_plugin.compensation.dense_states import DenseStates
from unicuco_plugin.compensation.moments import Moments, Weigh, weigh_rows
from unicuco_plugin.compensation.narrowed import Narrowed
from unicuco_plugin.compensation.projection import Projection
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.sending import sent
from unicuco_plugin.models.tensors.storage import resident

__all__ = ["Between", "observe_crosses", "observe_cut", "observe_here", "observe_inputs"]

Between: TypeAlias = tuple[list[Tensor], list[Tensor]]
"""States on both sides of a cut, ``b x L x d`` for each batch."""


def observe_inputs(
    runner: BlockRunner, index: int, entered: Sequence[Tensor], projection: Projection
) -> Iterator[Tensor]:
    """Run a block on states, and tell what its projection is given.

    Args:
        runner: The dense model's.
        index: The block.
        entered: ``b x L x d`` for each batch.
        projection: Of the block.

    Yields:
        ``b x L x c`` for each batch, in the host's memory.
    """
    given: list[Tensor] = []
    hook = projection.module.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    try:
        with resident():
            for states in entered:
                runner.run(index, states)
                yield given.pop().reshape(*states.shape[:2], -1).cpu()
    finally:
        hook.remove()


def observe_cut(
    dense: DenseStates,
    between: Between,
    projection: Projection | None,
    inputs: Iterable[Tensor],
    weigh: Weigh,
    *,
    room: bool = False,
    narrowing: bool = False,
) -> Cut:
    """Gather the moments of a cut.

    Args:
        dense: Says which batches are held out.
        between: The dense model's states that leave the block before it, and those behind it.
        projection: What is to change; None for methods that change none.
        inputs: What it is given, ``b x L x c`` for each batch; ``c`` is 0 where there is none.
        weigh: Weighs rows by the states behind the cut.
        room: Whether a projection without a bias may get one: it then has one of zeros.
        narrowing: Whether rows are to be weighed by the states before the cut: those of a narrower module, whose ``G``
            is then the same whatever goes behind it.
    """
    device = dense.runner.device
    weight = torch.zeros(dense.width, 0) if projection is None else projection.widened(room=room)
    moments = [Moments.zeros(weight.shape[1], weight.shape[0], device) for _ in range(2)]
    for place, batch in enumerate(zip(inputs, *between, strict=True)):
        given, states, targets = (sent(values, device) for values in batch)
        weights = weigh(states if narrowing else targets)
        moments[place < dense.held].add(given, states, targets, weights)
    return Cut(weight.to(device).double(), 1.0 if projection is None else projection.scale, *moments)


def observe_crosses(
    dense: DenseStates, between: Between, inputs: Iterable[Tensor], weigh: Weigh, *, biased: bool
) -> Crosses:
    """Gather ``C`` alone, for a module that may get many widths; bits are those of its ``observe_cut``.

    Args:
        dense: Says which batches are held out.
        between: As there.
        inputs: What the projection is given, ``b x L x c`` for each batch.
        weigh: Weighs rows by the states before the cut.
        biased: Whether the projection has a bias, or may get one.
    """
    device = dense.runner.device
    fit = held = torch.zeros((), dtype=torch.float64, device=device)
    for place, batch in enumerate(zip(inputs, *between, strict=True)):
        given, states, targets = (sent(values, device) for values in batch)
        _, weighted = weigh_rows(given, weigh(states), ones=biased)
        products = (weighted.T @ (targets.float() - states.float()).flatten(0, 1)).double()
        if place < dense.held:
            held = held + products
        else:
            fit = fit + products
    return fit, held


def observe_here(
    dense: DenseStates, index: int, around: Between, projection: Projection, weigh: Weigh, *, left: Narrowed | None
) -> Cut:
    """Gather the moments of a cut from what a model makes of the text that is corrected so far.

    Args:
        dense: Says which batches are held out.
        index: The block.
        around: That model's states that enter the block, and the dense model's behind the cut.
        projection: Of the block.
        weigh: Weighs rows by the states behind the cut.
        left: What stays of it; None where all of it does.
    """
    runner, room = dense.runner, left is not None and left.bias is not None
    weight = projection.widened(room=room)
    if left is not None:
        _, weight = left.columns(weight, biased=room or projection.module.bias is not None)
    weight = weight.to(runner.device).double()
    moments = [Moments.zeros(weight.shape[1], weight.shape[0], runner.device) for _ in range(2)]
    given: list[Tensor] = []
    with resident(), nullcontext() if left is None else left.taken_out(runner.decoder):
        hook = projection.module.register_forward_pre_hook(lambda _, args: given.append(args[0]))
        try:
            for place, (states, targets) in enumerate(zip(*around, strict=True)):
                behind = runner.run(index, states)
                inputs = given.pop().reshape(*states.shape[:2], -1)
                target = sent(targets, runner.device)
                moments[place < dense.held].add(inputs, behind, target, weigh(target))
        finally:
            hook.remove()
    return Cut(weight, projection.scale, *moments)
