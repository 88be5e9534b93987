"""OWL and DLP: a sparsity for every block from the distribution of its weights' pruning scores."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unicuco_plugin.peers.peer import PeerRequest, PeerResult, choose_space
from unicuco_plugin.scores.activations import block_scores
from unicuco_plugin.scores.budget import check_budget, name_units
from unicuco_plugin.scores.layerwise import (
    ALPHA,
    LAMBDA,
    OUTLIER,
    Statistic,
    importances,
    outlier_ratios,
    spread_shares,
)

__all__ = ["Dlp", "Owl"]


@dataclass(frozen=True)
class Owl:
    """Blocks with more outliers among their scores keep more weights.

    Attributes:
        M: A score is an outlier above ``M`` times the block's mean.
        half_width: ``lambda``; sparsities lie within ``2 lambda`` of each other.

    Source:
        Yin et al. 2024, "Outlier Weighed Layerwise Sparsity"; defaults of its public code.
    """

    M: float = OUTLIER
    half_width: float = LAMBDA
    spaces: ClassVar[tuple[str, ...]] = ("sparsity",)
    takes: ClassVar[frozenset[str]] = frozenset({"windows"})
    serves_all: ClassVar[bool] = True

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Find block sparsities; see :class:`Peer`."""
        choose_space(self, request)
        check_budget(request.sparsity)
        started = time.perf_counter()
        ratios = outlier_ratios(request.decoder, _scores(request), self.M)
        shares = spread_shares(request.decoder, ratios, self.half_width, request.sparsity)
        details = {"outlier_ratios": ratios.tolist(), "M": self.M, "lambda": self.half_width}
        return _result(request, started, shares, details)


@dataclass(frozen=True)
class Dlp:
    """Blocks with a lower typical score keep more weights.

    Attributes:
        half_width: ``alpha``; sparsities lie within ``2 alpha`` of each other.
        statistic: What stands for a block's scores. The paper's text has the median, its public code the mean.

    Source:
        Chen et al. 2025, "DLP: Dynamic Layerwise Pruning in Large Language Models"; defaults of its public code.
    """

    half_width: float = ALPHA
    statistic: Statistic = "mean"
    spaces: ClassVar[tuple[str, ...]] = ("sparsity",)
    takes: ClassVar[frozenset[str]] = frozenset({"windows"})
    serves_all: ClassVar[bool] = True

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Find block sparsities; see :class:`Peer`."""
        choose_space(self, request)
        check_budget(request.sparsity)
        started = time.perf_counter()
        I = importances(request.decoder, _scores(request), self.statistic)  # noqa: E741 - the paper's
        shares = spread_shares(request.decoder, I, self.half_width, request.sparsity)
        details = {"importance": I.tolist(), "alpha": self.half_width, "statistic": self.statistic}
        return _result(request, started, shares, details)


def _scores(request: PeerRequest) -> Iterator[Tensor]:
    return block_scores(
        request.decoder, request.windows, batch_windows=request.batch_windows, progress=request.progress
    )


def _result(request: PeerRequest, started: float, shares: Tensor, details: dict[str, object]) -> PeerResult:
    units = name_units(request.decoder.block_names, shares)
    seconds = time.perf_counter() - started
    return PeerResult("sparsity", units, request.sparsity, request.windows.numel(), seconds, details)
