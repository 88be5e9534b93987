"""What share of the weights of its blocks a model has in linears, which alone can be zeroed in part."""

import math
from dataclasses import dataclass

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.mixtures import find_fused, find_stacks
from unicuco_plugin.models.tensors.storage import count_parameters

__all__ = ["Coverage", "check_share", "measure_coverage"]

# Of less than this share of its blocks' weights a model cannot be said to have a sparsity.
_LEAST = 0.5


@dataclass(frozen=True)
class Coverage:
    """Weights of a model's blocks.

    Attributes:
        linears: In linears, fused experts that llm-compressor takes apart among them; routers are not.
        blocks: In all parameters of the blocks.
        apart: A tensor of experts that is no linear and cannot be made into some; empty where there is none.
    """

    linears: int
    blocks: int
    apart: str = ""

    @property
    def share(self) -> float:
        """Of the blocks' weights, in [0, 1]."""
        return self.linears / self.blocks


def measure_coverage(decoder: Decoder) -> Coverage:
    """Count the weights that can be zeroed in part, from shapes alone; fused experts count as if they were linears."""
    linears = [linear for index in range(len(decoder.blocks)) for linear in decoder.linears(index).values()]
    fused = [parameter for module in find_fused(decoder.blocks).values() for parameter in module.parameters()]
    weights = sum(linear.weight.numel() for linear in linears) + sum(p.numel() for p in fused if p.dim() > 2)
    apart = next(iter(find_stacks(decoder.blocks)), "")
    name = f"{decoder.blocks_name}.{apart}" if apart else ""
    return Coverage(weights, count_parameters(decoder.blocks), name)


def check_share(decoder: Decoder, share: float | None = None) -> Coverage:
    """Refuse a share of the blocks' weights that zeros in linears cannot make.

    Args:
        decoder: The model, on any device.
        share: In (0, 1); None asks whether half of the weights can be reached.

    Returns:
        What can be reached.

    Raises:
        UnsupportedModelError: If it cannot; the message says what can be met.
    """
    found, label = measure_coverage(decoder), type(decoder.model).__name__
    if not found.linears:
        decoder.all_linears()  # says why
    if found.share < (_LEAST if share is None else share):
        where = (
            f"; {found.apart} holds experts in one tensor, which llm-compressor does not prune" if found.apart else ""
        )
        what = f"so a sparsity of {share:g} cannot be met" if share else "too few for a profile of the space sparsity"
        most = math.floor(found.share * 1000) / 1000
        least = f"ask for at most {most:g}, or " if share and most else ""
        raise UnsupportedModelError(
            f"{label}: linears have {found.share:.1%} of the weights of its blocks, {what}{where}: {least}drop "
            "blocks (the space depth)"
        )
    return found
