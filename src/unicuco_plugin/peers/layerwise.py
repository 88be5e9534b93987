"""OWL and DLP: a sparsity for every block from the distribution of its weights' pruning scores."""

import time
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from unicuco_plugin.models.tensors.finite import check_finite
from unicuco_plugin.peers.activations import block_scores
from unicuco_plugin.peers.budget import block_sizes, check_budget, meet_budget, name_units
from unicuco_plugin.peers.peer import PeerRequest, PeerResult, choose_space

__all__ = ["Dlp", "Owl", "importance", "outlier_ratio", "spread_keeps"]

Statistic = Literal["mean", "median"]


@dataclass(frozen=True)
class Owl:
    """Blocks with more outliers among their scores keep more weights.

    Attributes:
        M: A score is an outlier above ``M`` times the block's mean.
        half_width: ``lambda``; sparsities lie within ``2 lambda`` of each other.

    Source:
        Yin et al. 2024, "Outlier Weighed Layerwise Sparsity"; defaults of its public code.
    """

    M: float = 5.0
    half_width: float = 0.08
    spaces: ClassVar[tuple[str, ...]] = ("sparsity",)
    takes: ClassVar[frozenset[str]] = frozenset({"windows"})
    serves_all: ClassVar[bool] = True

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Find block sparsities; see :class:`Peer`."""
        choose_space(self, request)
        check_budget(request.sparsity)
        started = time.perf_counter()
        ratios = [outlier_ratio(scores, self.M) for scores in block_scores(request)]
        _check(request, "outlier ratio", ratios)
        keeps = spread_keeps(torch.tensor(ratios, dtype=torch.float64), self.half_width, request.sparsity)
        return _result(request, started, keeps, {"outlier_ratios": ratios, "M": self.M, "lambda": self.half_width})


@dataclass(frozen=True)
class Dlp:
    """Blocks with a lower typical score keep more weights.

    Attributes:
        half_width: ``alpha``; sparsities lie within ``2 alpha`` of each other.
        statistic: What stands for a block's scores. The paper's text has the median, its public code the mean.

    Source:
        Chen et al. 2025, "DLP: Dynamic Layerwise Pruning in Large Language Models"; defaults of its public code.
    """

    half_width: float = 0.15
    statistic: Statistic = "mean"
    spaces: ClassVar[tuple[str, ...]] = ("sparsity",)
    takes: ClassVar[frozenset[str]] = frozenset({"windows"})
    serves_all: ClassVar[bool] = True

    def __call__(self, request: PeerRequest) -> PeerResult:
        """Find block sparsities; see :class:`Peer`."""
        choose_space(self, request)
        check_budget(request.sparsity)
        started = time.perf_counter()
        typical = [_typical(scores, self.statistic) for scores in block_scores(request)]
        _check(request, "typical score", typical)
        I = importance(torch.tensor(typical, dtype=torch.float64))  # noqa: E741 - the paper's letter
        keeps = spread_keeps(I, self.half_width, request.sparsity)
        details = {"importance": I.tolist(), "alpha": self.half_width, "statistic": self.statistic}
        return _result(request, started, keeps, details)


def outlier_ratio(scores: Tensor, M: float) -> float:
    """``100 · share(A > M mean A)``, in per cent, of a flat tensor of scores."""
    return 100.0 * (scores > M * scores.mean(dtype=torch.float64)).count_nonzero().item() / scores.numel()


def importance(typical: Tensor) -> Tensor:
    """``I_l = 1 - S_l / sum_l S_l`` of ``d`` typical scores."""
    return 1.0 - typical / typical.sum()


def spread_keeps(scores: Tensor, half_width: float, sparsity: float) -> Tensor:
    """Shares to keep that rise with the scores: ``r - mean(r) + 1 - S``, ``r`` the scores mapped to [0, 2 half_width].

    Args:
        scores: ``d`` scores; where all are equal so are the shares.
        half_width: OWL's lambda, DLP's alpha.
        sparsity: ``S``; one minus the mean of what is returned.
    """
    width = scores.max() - scores.min()
    r = (scores - scores.min()) * (2.0 * half_width / width) if width > 0 else torch.zeros_like(scores)
    return r - r.mean() + 1.0 - sparsity


def _check(request: PeerRequest, what: str, scores: list[float]) -> None:
    named = dict(zip(request.decoder.block_names, scores, strict=True))
    check_finite(what, named, request.decoder.model.dtype)


def _typical(scores: Tensor, statistic: Statistic) -> float:
    return (scores.mean(dtype=torch.float64) if statistic == "mean" else scores.median()).item()


def _result(request: PeerRequest, started: float, keeps: Tensor, details: dict[str, object]) -> PeerResult:
    shares = meet_budget(1.0 - keeps, block_sizes(request.decoder), request.sparsity)
    units = name_units(request.decoder.block_names, shares)
    seconds = time.perf_counter() - started
    return PeerResult("sparsity", units, request.sparsity, request.windows.numel(), seconds, details)
