"""Inputs of linears in the shapes that the toolkit's sums know."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

__all__ = ["flat_inputs"]


@contextmanager
def flat_inputs(model: nn.Module) -> Iterator[None]:
    """Give linears no more than three dimensions while the toolkit runs.

    Its sums of inputs (SparseGPT, Wanda, GPTQ) know two and three, and DeepSeek's attention gives some linears
    ``b x heads x L x C``. Such a linear gets ``b x (heads L) x C``, and what it returns has the old shape again.

    Args:
        model: The model, before the toolkit has it; without our hooks again when the ``with`` ends.
    """
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def flatten(linear: nn.Module, args: tuple[object, ...]) -> tuple[object, ...] | None:
        states = args[0] if args else None
        if not isinstance(states, Tensor) or states.dim() <= 3:
            shapes[linear] = ()
            return None
        shapes[linear] = tuple(states.shape[:-1])
        return (states.flatten(1, -2), *args[1:])

    def unflatten(linear: nn.Module, _: tuple[object, ...], output: object) -> object:
        shape = shapes.pop(linear, ())
        return output.view(*shape, output.shape[-1]) if shape and isinstance(output, Tensor) else None

    hooks = []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            hooks += [module.register_forward_pre_hook(flatten), module.register_forward_hook(unflatten)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
