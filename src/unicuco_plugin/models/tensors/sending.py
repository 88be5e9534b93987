"""Tensors on their way to a device; needs PyTorch alone."""

import torch
from torch import Tensor

__all__ = ["sent"]


def sent(values: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device; what comes from the host is on its way, and nobody waits for it."""
    # The other way round one would read numbers that have not arrived.
    return values.to(device, non_blocking=values.device.type == "cpu")
