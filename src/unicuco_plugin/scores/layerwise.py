"""OWL's and DLP's scores of blocks, and how they spread a sparsity over them.

Source:
    Yin et al. 2024, "Outlier Weighed Layerwise Sparsity"; Chen et al. 2025, "DLP: Dynamic Layerwise Pruning in Large
    Language Models"; the defaults are those of their public code.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.tensors.finite import check_finite
from unicuco_plugin.scores.budget import block_sizes, meet_budget

__all__ = [
    "ALPHA",
    "LAMBDA",
    "OUTLIER",
    "Statistic",
    "importance",
    "importances",
    "outlier_ratio",
    "outlier_ratios",
    "spread_keeps",
    "spread_shares",
]

Statistic = Literal["mean", "median"]
# OWL's M and lambda, DLP's alpha.
OUTLIER, LAMBDA, ALPHA = 5.0, 0.08, 0.15


def outlier_ratios(decoder: Decoder, scores: Iterable[Tensor], M: float = OUTLIER) -> Tensor:
    """OWL's score of every block: how many of its weights' scores are outliers, in per cent.

    Args:
        decoder: The dense model.
        scores: Of the weights of each block, as ``block_scores`` gives them.
        M: A score is an outlier above ``M`` times the block's mean.

    Raises:
        EvaluationError: If a score is not finite.
    """
    return _checked(decoder, "outlier ratio", [outlier_ratio(block, M) for block in scores])


def importances(decoder: Decoder, scores: Iterable[Tensor], statistic: Statistic = "mean") -> Tensor:
    """DLP's score of every block: higher where its weights' scores are typically lower.

    Args:
        decoder: The dense model.
        scores: Of the weights of each block, as ``block_scores`` gives them.
        statistic: What stands for a block's scores. The paper's text has the median, its public code the mean.

    Raises:
        EvaluationError: If a score is not finite.
    """
    return importance(_checked(decoder, "typical score", [_typical(block, statistic) for block in scores]))


def spread_shares(decoder: Decoder, scores: Tensor, half_width: float, sparsity: float) -> Tensor:
    """Shares to remove of every block that fall with its score, and whose mean by size is the sparsity.

    Args:
        decoder: The dense model.
        scores: One for each block.
        half_width: See :func:`spread_keeps`.
        sparsity: Share of all prunable weights to remove.

    Raises:
        RequestError: If it is out of reach.
    """
    return meet_budget(1.0 - spread_keeps(scores, half_width, sparsity), block_sizes(decoder), sparsity)


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


def _checked(decoder: Decoder, what: str, scores: list[float]) -> Tensor:
    check_finite(what, dict(zip(decoder.block_names, scores, strict=True)), decoder.model.dtype)
    return torch.tensor(scores, dtype=torch.float64)


def _typical(scores: Tensor, statistic: Statistic) -> float:
    return (scores.mean(dtype=torch.float64) if statistic == "mean" else scores.median()).item()
