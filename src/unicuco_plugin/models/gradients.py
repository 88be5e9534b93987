"""Models whose parameters ask for no gradient, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from unicuco_plugin.models.storage import kept_tensors

__all__ = ["frozen"]


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter ask for a gradient until the ``with`` ends."""
    with kept_tensors():
        asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
