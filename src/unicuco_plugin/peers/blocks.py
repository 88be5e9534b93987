"""What all peers that drop blocks share: the space, how many go, and how a ranking becomes a strategy."""

import math
import time
from collections.abc import Collection, Sequence

import torch

from unicuco_plugin.errors import RequestError, round_down
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.needed import needed_blocks
from unicuco_plugin.models.blocks.sizes import measure_sizes
from unicuco_plugin.peers.peer import PeerRequest, PeerResult
from unicuco_plugin.spaces.depth import DepthSpace

__all__ = ["blocks_to_drop", "check_blocks", "depth_space", "drop_ranked", "drop_result", "may_go"]

# Shares are sums of floats: a budget that is a block boundary must not cost one block more.
_SLACK = 1e-9


def depth_space(decoder: Decoder) -> DepthSpace:
    """A model's blocks as a ranking removes them: its shortest run that reaches a share of their parameters."""
    return DepthSpace(decoder.block_names, measure_sizes(decoder).block_params, needed=needed_blocks(decoder))


def blocks_to_drop(count: int, sparsity: float) -> int:
    """The fewest of ``count`` blocks of one size that are at least a share of them.

    Raises:
        RequestError: If no block would be left.
    """
    removed = math.ceil(sparsity * count - _SLACK)
    if removed >= count:
        most = round_down((count - 1) / count)
        raise RequestError(f"sparsity must be at most {most}: one of {count} blocks has to stay, got {sparsity}")
    return removed


def check_blocks(request: PeerRequest) -> DepthSpace:
    """The space of the request's blocks, where its budget leaves at least one; before anything is run.

    Raises:
        RequestError: If the budget takes all blocks.
    """
    space = depth_space(request.decoder)
    space.project(torch.zeros(1, len(space.units)), request.sparsity)
    return space


def may_go(space: DepthSpace, gone: Collection[int]) -> bool:
    """Whether these blocks may go: of each group that generation needs one stays."""
    return all(set(group) - set(gone) for group in space.needed or (range(len(space.units)),))


def drop_ranked(
    request: PeerRequest, importance: Sequence[float], started: float, tokens: int, details: dict[str, object]
) -> PeerResult:
    """Drop the least important blocks, the fewest that reach the budget.

    Args:
        request: Model and budget.
        importance: Of every block; ties go to the earlier block.
        started: ``time.perf_counter()`` when the peer began.
        tokens: Spent.
        details: Of the result.

    Raises:
        RequestError: If that takes all blocks.
    """
    space = depth_space(request.decoder)
    x = space.project(-torch.tensor([list(importance)], dtype=torch.float64), request.sparsity)[0]
    return drop_result(request, x.nonzero()[:, 0].tolist(), started, tokens, details)


def drop_result(
    request: PeerRequest, dropped: Sequence[int], started: float, tokens: int, details: dict[str, object]
) -> PeerResult:
    """The result of dropping these blocks."""
    space = depth_space(request.decoder)
    x = torch.zeros(len(space.units), dtype=torch.float64)
    x[list(dropped)] = 1.0
    seconds = time.perf_counter() - started
    return PeerResult("depth", space.to_units(x), space.sparsity(x[None]).item(), tokens, seconds, details)
