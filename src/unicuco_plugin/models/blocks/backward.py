"""Gradients back through all blocks of a model, with the weights and the graph of one block at a time.

Notation
    x_k: states that enter block k, those of a window ``1 x L x hidden``; x_n leave the last block
    g_k: gradient of a window's loss with respect to x_k

Every block is run twice: forwards, where all that is kept are the states x_k, and again on them from the last block to
the first, for ``g_k = (d x_{k+1} / d x_k)' g_{k+1}``: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost,
with one segment for each block.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.tensors.memory import spare_memory
from unicuco_plugin.models.tensors.sending import sent
from unicuco_plugin.models.tensors.storage import resident

__all__ = ["Loss", "Note", "backpropagate", "next_token_loss"]

Loss: TypeAlias = Callable[[int, Tensor, Callable[[], Tensor]], Tensor]
"""From a window's index, its ``L x V`` logits in float32, and a call for those of the dense model, to its loss."""
Note: TypeAlias = Callable[[str, Tensor, Tensor], None]
"""Given a module's name, its first input on one window, and a gradient."""


def next_token_loss(windows: Tensor) -> Loss:
    """Cross-entropy of the next token, summed over a window, in nats."""

    def loss(index: int, logits: Tensor, _: Callable[[], Tensor]) -> Tensor:
        return cross_entropy(logits[:-1], sent(windows[index, 1:], logits.device), reduction="sum")

    return loss


def backpropagate(
    runner: BlockRunner,
    windows: Tensor,
    loss: Loss,
    modules: Mapping[str, nn.Module],
    note: Note,
    *,
    of_inputs: bool = False,
    inside: Callable[[int], AbstractContextManager[None]] | None = None,
    tell: Callable[[int], None] = lambda _: None,
) -> None:
    """Tell gradients of a loss at modules inside the blocks, the same as from backward passes of the whole model.

    No gradient of a weight is made.

    Args:
        runner: The dense model, not yet used in inference mode; it is only read.
        windows: ``m x L`` token ids, at least one; one passes at a time.
        loss: Of a window.
        modules: By any name, those to look at; one that no token reaches is not told of.
        note: Told of each window with the gradient with respect to the module's output, inside ``inside``.
        of_inputs: Whether to give the gradient with respect to its first input instead.
        inside: For each block a context in which it is changed; None leaves all dense.
        tell: Called with how many blocks were gone back through, before each and at the end.

    Raises:
        EvaluationError: If states between blocks are not finite.
    """
    count = len(runner.decoder.blocks)
    dense = [runner.embed(window[None]) for window in windows]
    on_host = (count + 1) * sum(states.nbytes for states in dense) > spare_memory(dense[0].device)
    put = (lambda states: states.cpu()) if on_host else (lambda states: states)
    entering = [[put(states) for states in dense]]
    for index in range(count):
        with resident():  # nothing but this block is run
            if inside:
                dense = [runner.run(index, states) for states in dense]
            with inside(index) if inside else nullcontext():
                entering.append([put(runner.run(index, states)) for states in entering[-1]])
    runner.check()
    finals, gradients = entering.pop(), list[Tensor]()
    with resident():  # nothing but the head is run
        for place, final in enumerate(finals):
            of = partial(_loss, runner, partial(loss, place), dense[place] if inside else final)
            gradients.append(_pulled(of, runner.here(final)))
    with _watching(modules, note, of_inputs):
        for index in reversed(range(count)):
            tell(count - 1 - index)
            run = partial(runner.call, index)
            with resident(), inside(index) if inside else nullcontext():
                pairs = zip(entering.pop(), gradients, strict=True)
                gradients = [_pulled(run, runner.here(states), gradient) for states, gradient in pairs]
    tell(count)


def _loss(
    runner: BlockRunner, loss: Callable[[Tensor, Callable[[], Tensor]], Tensor], dense: Tensor, final: Tensor
) -> Tensor:
    @torch.no_grad()
    def dense_logits() -> Tensor:
        return runner.logits(dense)[0].float()

    return loss(runner.logits(final)[0].float(), dense_logits)


@torch.enable_grad()
def _pulled(function: Callable[[Tensor], Tensor], states: Tensor, gradient: Tensor | None = None) -> Tensor:
    """The gradient with respect to ``states`` of what a function makes of them, given that of its result."""
    x = states.detach().requires_grad_(True)
    # A copy: some families change states in place, which is forbidden to what itself asks for a gradient.
    result = function(x.clone())
    (found,) = torch.autograd.grad(result, x, None if gradient is None else gradient.to(result.device))
    return found


@contextmanager
def _watching(modules: Mapping[str, nn.Module], note: Note, of_inputs: bool) -> Iterator[None]:
    def watch(name: str, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        seen = args[0] if of_inputs else output
        if seen.requires_grad:  # not so what a family runs without gradients, such as DeepSeek-V3.2's choice of tokens
            seen.register_hook(partial(note, name, args[0].detach()))

    hooks = [module.register_forward_hook(partial(watch, name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
