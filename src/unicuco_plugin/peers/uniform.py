"""Uniform sparsity: every block the same."""

import time
from dataclasses import dataclass
from typing import ClassVar

import torch

from unicuco_plugin.peers.peer import PeerRequest, PeerResult, choose_space
from unicuco_plugin.scores.budget import block_sizes, meet_budget, name_units

__all__ = ["Uniform"]


@dataclass(frozen=True)
class Uniform:
    """The request's sparsity for every block."""

    spaces: ClassVar[tuple[str, ...]] = ("sparsity",)
    takes: ClassVar[frozenset[str]] = frozenset()
    serves_all: ClassVar[bool] = True

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Find block sparsities; see :class:`Peer`."""
        choose_space(self, request)
        started = time.perf_counter()
        sizes = block_sizes(request.decoder)
        shares = meet_budget(torch.full((len(sizes),), request.sparsity, dtype=torch.float64), sizes, request.sparsity)
        units = name_units(request.decoder.block_names, shares)
        return PeerResult("sparsity", units, request.sparsity, 0, time.perf_counter() - started)
