"""FLAP's threshold: one for all parts of a model, on scores that are standardised within each module.

Source:
    An et al. 2024, "Fluctuation-based Adaptive Structured Pruning for Large Language Models", its global search.
"""

import torch
from torch import Tensor

from unicuco_plugin.scores.ranked_parts import RankedParts
from unicuco_plugin.spaces.structured import StructuredSpace

__all__ = ["flap_shares"]

# Modules whose parts all score the same have no deviation to divide by.
_FLAT = 1e-12


def flap_shares(space: StructuredSpace, ranked: RankedParts, sparsity: float) -> Tensor:
    """Shares ``d`` of parts below the one threshold at which they hold a share of all parameters, before steps."""
    scores, params, units = [], [], []
    for unit, name in enumerate(space.units):
        score = ranked.scores[name].double()
        standard = (score - score.mean()) / score.std(correction=0).clamp_min(_FLAT)
        # A module whose parts are all worth nothing has no deviation to standardise by: it goes first.
        scores.append(standard if score.any() else torch.full_like(score, -torch.inf))
        params.append(torch.full_like(score, space.unit_params[unit] / len(score)))
        units.append(torch.full(score.shape, unit))
    order = torch.cat(scores).argsort(stable=True)
    weights = torch.cat(params)[order]
    gone = order[: int((weights.cumsum(0) < sparsity * weights.sum()).sum()) + 1]
    counts = torch.bincount(torch.cat(units)[gone], minlength=len(space.units)).double()
    return counts / torch.tensor([len(part) for part in scores], dtype=torch.float64)
