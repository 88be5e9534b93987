r"""First strategies of non-uniform sparsity from structure: slopes of the divergence, depth, and their mixtures.

====== ===== ==================================================================================
symbol shape meaning
====== ===== ==================================================================================
slope  d x k nats per token and share of a unit, at models uniformly at each of k levels
w      d x k slope per weight, divided by the mean over all weights at that level
a      d     sensitivity of a unit: mean of ``w`` over levels, at least ``_LEAST``
h      k     slope of all units together at each level
====== ===== ==================================================================================
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.decoder import Decoder
from unicuco_plugin.objectives.sensitivity import TOKEN_COST, inner_levels, measure_slopes
from unicuco_plugin.search.journal import Journal
from unicuco_plugin.search.prior import Prior
from unicuco_plugin.spaces.space import Space

__all__ = ["find_prior", "find_starts", "structural_starts"]

_NOTE = "slopes"
# Sparsities at which slopes are taken. Below, the divergence is too small to matter; above, single linears have passed
# through their worst, and many slopes are negative that nobody should follow.
_FROM, _TO = 0.35, 0.65
# A slope that noise makes tiny or negative must not send a unit to its bound.
_LEAST = 0.2
# How strongly scores follow sensitivities, ``z = -log(a) / e``: the slope of a unit grows about as exp(e s).
_EXPONENTS = (1.0, 2.0, 3.0)
# Arithmetic progressions over depth: difference of score between the last block and the first.
_RAMPS = (-1.0, 0.0, 1.0)


def structural_starts(
    decoder: Decoder, levels: Levels, space: Space, windows: Tensor, journal: Journal
) -> tuple[Tensor, Prior, int]:
    """Measure slopes once, journaled, and make first strategies and a prior of them.

    Args:
        decoder: The dense model.
        levels: Its level database.
        space: The space ``sparsity`` over it.
        windows: ``m x L`` ranking windows.
        journal: Keeps the slopes.

    Returns:
        First strategies ``n x d``, the prior, and the evaluation tokens spent.
    """
    ladder = levels.sparsities
    inner = inner_levels(levels)
    at = [level for level in inner if _FROM < ladder[level - 1] < _TO] or [inner[len(inner) // 2]] if inner else []
    if not at:
        return space.first(len(space.budgets), torch.Generator().manual_seed(0)), _flat(space), 0
    slopes = journal.notes().get(_NOTE)
    if slopes is None:
        slopes = measure_slopes(decoder, levels, windows, at)
        journal.write_note(_NOTE, slopes)
    shares = torch.tensor([ladder[level - 1] for level in at], dtype=torch.float64)
    slope = _by_unit(slopes, levels, space)
    return find_starts(space, slope), find_prior(space, shares, slope), len(at) * windows.numel() * TOKEN_COST


def find_starts(space: Space, slope: Tensor) -> Tensor:
    """Uniform at every budget; then sensitivities of every strength with every ramp over depth, ``n x d``.

    Args:
        space: The space ``sparsity``.
        slope: ``d x k``.
    """
    a = _sensitivity(space, slope).log()
    depth = torch.linspace(-0.5, 0.5, len(a), dtype=torch.float64)
    scores = [ramp * depth - a / exponent for exponent in _EXPONENTS for ramp in _RAMPS]
    scores += [ramp * depth for ramp in _RAMPS if ramp]
    rows = [space.project(torch.zeros(1, len(a), dtype=torch.float64), budget) for budget in space.budgets]
    # Each shape at every third budget, another third for each: budgets and shapes stay apart.
    rows += [
        space.project(z[None], budget)
        for place, z in enumerate(scores)
        for index, budget in enumerate(space.budgets)
        if (index + place) % 3 == 0
    ]
    return torch.cat(rows)


def find_prior(space: Space, shares: Tensor, slope: Tensor) -> Prior:
    """Each unit's curve: its sensitivity times the growth that all units share, ``log h`` linear in the share.

    Args:
        space: The space ``sparsity``.
        shares: ``k`` sparsities of the slopes.
        slope: ``d x k``.
    """
    h = slope.sum(0).clamp_min(1e-6)
    growth = 6.0  # of the mean slope in the literature's and our curves; used where one level leaves it open
    if len(shares) > 1:
        centred = shares - shares.mean()
        growth = max((centred @ h.log() / (centred @ centred)).item(), 1.0)
    knots = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    common = (h.log().mean() + growth * (knots - shares.mean())).exp()
    weight = _sensitivity(space, slope) * space.params
    return Prior.from_slopes(knots, (weight / weight.sum())[:, None] * common)


def _sensitivity(space: Space, slope: Tensor) -> Tensor:
    w = slope / space.params[:, None]
    w = w / (slope.sum(0) / space.params.sum()).clamp_min(1e-300)
    return w.mean(1).clamp_min(_LEAST)


def _by_unit(slopes: Mapping[str, list[float]], levels: Levels, space: Space) -> Tensor:
    """Slopes of units: those of their linears, added up, since a unit's share is each linear's."""
    found = []
    for unit in space.units:
        members = [name for name in levels.sizes if name == unit or name.startswith(f"{unit}.")]
        found.append(torch.tensor([slopes[name] for name in members], dtype=torch.float64).sum(0))
    return torch.stack(found)


def _flat(space: Space) -> Prior:
    """A prior without slopes: every weight counts alike."""
    return find_prior(space, torch.tensor([0.5], dtype=torch.float64), space.params[:, None] / space.params.sum())
