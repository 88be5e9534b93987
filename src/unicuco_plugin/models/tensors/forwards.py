"""Another forward for a module, for a while, whatever the toolkit has wrapped around its own."""

from collections.abc import Callable
from types import MethodType
from typing import Any

from compressed_tensors.offload import unwrap_offload_forward
from torch import nn

__all__ = ["replace_forward"]


def replace_forward(module: nn.Module, forward: Callable[..., Any]) -> Callable[[], None]:
    """Let a module compute something else.

    The toolkit's offloading wraps the forward that a module has when it is offloaded and puts that one back when the
    offloading ends: both may happen in between, and what it remembers is changed with it.

    Args:
        module: Any.
        forward: Called with the module and its inputs.

    Returns:
        A function that puts back what was there; calling it again does nothing.
    """
    with unwrap_offload_forward(module):
        # Another tool may already have put a forward of its own on the instance.
        before = vars(module).get("forward")
        module.forward = MethodType(forward, module)
    done: list[bool] = []

    def restore() -> None:
        if done:
            return
        done.append(True)
        wrapped = "_original_forward_func" in vars(module)
        with unwrap_offload_forward(module):
            module.forward = before if before is not None else MethodType(type(module).forward, module)
        if before is None and not wrapped:
            del module.forward

    return restore
