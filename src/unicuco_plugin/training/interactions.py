"""What interactions say before a strategy of structured pruning is measured: first strategies, and a prior."""

import math

import torch
from torch import Tensor

from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.journal.once import note_once
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.families.family import HALVES
from unicuco_plugin.objectives.interaction import InteractionMeter, InteractionPath, measure_path
from unicuco_plugin.policy.prior import Prior
from unicuco_plugin.scores.flap import flap_shares
from unicuco_plugin.scores.kinds import embed, kind_space
from unicuco_plugin.scores.ranked_parts import RankedParts
from unicuco_plugin.spaces.structured import StructuredSpace
from unicuco_plugin.spaces.units import number_blocks

__all__ = ["find_prior", "find_starts", "interaction_starts", "whole_blocks"]

# Interactions are measured on the way to this share; what lies beyond follows the last of them. A choice: at one
# half a model has lost most of its abilities.
_FURTHEST = 0.5
# The largest share that first strategies remove, the default of the setting focus: beyond it nothing is of use.
_MOST = 0.75
# A unit that goes whole costs TE ** _POWER, and a part of it by a curve that grows as exp(_GROWTH * share). Chosen on
# SmolLM2: of 48 strategies that a search picked, a surrogate fitted to 60 first ones told the logarithm of the
# divergence to 0.105 with this prior and to 0.447 without; powers of 0.2 to 0.5 and growths of 1 to 3 to 0.11 to 0.15.
_POWER, _GROWTH = 0.4, 1.0
# Of the mean interaction, added to each: what seems to carry nothing costs something all the same. A choice.
_FLOOR = 0.05
# Nats per token that all units together are taken to cost. A guess: the surrogate fits the scale itself.
_WHOLE = 4.0


def interaction_starts(
    decoder: Decoder, space: StructuredSpace, windows: Tensor, ranked: RankedParts, journal: Journal
) -> tuple[Tensor, Prior, int]:
    """Measure interactions, journaled round by round, and make first strategies and a prior of them.

    Args:
        decoder: The dense model.
        space: Over it.
        windows: ``m x L`` ranking windows.
        ranked: Which parts of a module go first.
        journal: Keeps the interactions.

    Returns:
        First strategies ``n x d``, the prior, and the evaluation tokens spent.
    """
    meter = InteractionMeter(decoder, windows)
    spent = 0

    def interactions(x: Tensor) -> dict[str, float]:
        found = meter.measure(ranked.keep(decoder, space.to_units(x)), space.units)
        return dict(zip(space.units, found.tolist(), strict=True))

    def measure(x: Tensor) -> Tensor:
        nonlocal spent
        spent += windows.numel() * (1 + int((x < 1.0).sum()))
        found = note_once(journal, f"interactions {space.key(x)}", lambda: interactions(x))
        return torch.tensor([found[unit] for unit in space.units], dtype=torch.float64)

    path = measure_path(space, measure, _FURTHEST)
    return find_starts(space, path, decoder, ranked), find_prior(path), spent


def find_prior(path: InteractionPath) -> Prior:
    """An additive estimate from the dense model's interactions: ``cost_i(x) = w_i (e^(g x) - 1) / (e^g - 1)``.

    ``w_i`` grows as ``(TE_i + floor) ** 0.4``; ``g`` is 1. Derived from a measurement, see the constants.

    Args:
        path: Interactions, the dense model's first.
    """
    TE = path.TE[0].clamp_max(path.TE[0][path.TE[0].isfinite()].max())
    w = (TE + _FLOOR * TE.mean()).clamp_min(1e-9) ** _POWER
    knots = torch.linspace(0.0, 1.0, 9, dtype=torch.float64)
    curve = torch.expm1(_GROWTH * knots) / math.expm1(_GROWTH)
    return Prior(knots, (_WHOLE * w / w.sum())[:, None] * curve)


def find_starts(space: StructuredSpace, path: InteractionPath, decoder: Decoder, ranked: RankedParts) -> Tensor:
    """First strategies, ``n x d``.

    The reconstruction at every budget, whole blocks up to one half, and uniform shares, FLAP's threshold and one kind
    of module alone at a third of the budgets each.
    """
    budgets = [budget for budget in space.budgets if budget <= _MOST + 1e-9]
    rows = [path.assign(budget) for budget in budgets]
    rows += [whole_blocks(space, path.TE[0], budget) for budget in budgets if budget <= _FURTHEST + 1e-9]
    kinds = []
    for kind in HALVES:
        inner, places = kind_space(space, decoder, kind)
        alone = InteractionPath(inner, torch.zeros(1, len(places), dtype=torch.float64), path.TE[:1, places])
        kinds.append((inner, places, alone, (inner.params.sum() / space.params.sum()).item()))
    for index, budget in enumerate(budgets):
        if index % 3 == 0:
            rows.append(space.project(torch.zeros(1, len(space.units), dtype=torch.float64), budget)[0])
        if index % 3 == 1:
            rows.append(space.spend(flap_shares(space, ranked, budget)[None], budget)[0])
        if index % 3 == 2:
            rows += [
                embed(alone.assign(budget / share), places, space)
                for inner, places, alone, share in kinds
                if budget / share < inner.most
            ]
    return torch.stack(rows)


def whole_blocks(space: StructuredSpace, TE: Tensor, budget: float) -> Tensor:
    """Blocks of the least interaction per parameter, whole, and of the last what the budget still asks for.

    Args:
        space: Its units are attentions and MLPs.
        TE: ``d`` interactions, nats.
        budget: Share of parameters to remove.

    Returns:
        ``d`` shares.
    """
    of = torch.tensor(number_blocks(space.units))
    zero = torch.zeros(int(of.max()) + 1, dtype=torch.float64)
    size = zero.index_add(0, of, space.params)
    order = (zero.index_add(0, of, TE) / size).argsort()
    before = size[order].cumsum(0) - size[order]
    share = ((budget * space.params.sum() - before) / size[order]).clamp(0.0, 1.0)
    return space.spend(zero.index_copy(0, order, share)[of][None], budget)[0]
