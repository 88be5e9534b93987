"""What is seen of one cut: moments of what passes the block before it, and of the target behind it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from unicuco_plugin.compensation.cut import Crosses, Cut
from unicuco_plugin.compensation.dense_states import DenseStates
from unicuco_plugin.compensation.moments import Moments, Weigh, weigh_rows
from unicuco_plugin.compensation.projection import Projection
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.sending import sent
from unicuco_plugin.models.tensors.storage import resident

__all__ = ["Between", "observe_crosses", "observe_cut", "observe_inputs"]

Between: TypeAlias = tuple[list[Tensor], list[Tensor]]
"""The dense model's states that leave the block before a cut, ``b x L x d`` for each batch, and those behind it."""


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
        between: States on both sides.
        projection: What is to change; None for methods that change none.
        inputs: What it is given, ``b x L x c`` for each batch; ``c`` is 0 where there is none.
        weigh: Weighs rows by the states behind the cut.
        room: Whether a projection without a bias may get one: it then has one of zeros.
        narrowing: Whether rows are to be weighed by the states before the cut: those of a narrower module, whose ``G``
            is then the same whatever goes behind it.
    """
    device = dense.runner.device
    weight = torch.zeros(dense.width, 0) if projection is None else projection.weight
    if room and projection is not None and projection.module.bias is None:
        weight = torch.cat([weight, torch.zeros_like(weight[:, :1])], 1)
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
        between: States on both sides.
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
