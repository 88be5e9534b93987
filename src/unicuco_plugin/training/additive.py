r"""What single units say before a strategy of bits is measured: first strategies, and a prior.

What a unit costs is measured twice: as harm, where all others have the wider of two schemes, and as gain, where all
others have the narrower (:mod:`unicuco_plugin.scores.single_units`). Costs do not add up, so the two differ by a factor
of several; their geometric mean stands for what lies between. Where whole blocks may be gone, that is measured of each
beside either scheme, and beside the wider one in rounds.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.journal.once import note_once
from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.objectives.units import UnitsEvaluator
from unicuco_plugin.policy.prior import Prior
from unicuco_plugin.scores.single_units import (
    at_least,
    find_neighbours,
    measure_alone,
    measure_gone,
    measure_rounds,
    measure_uniform,
    unit_costs,
    unit_losses,
)
from unicuco_plugin.spaces.compound import CompoundSpace
from unicuco_plugin.spaces.precision import PrecisionSpace
from unicuco_plugin.strategy import Plain
from unicuco_plugin.training.subject import Start

__all__ = ["additive_starts", "find_prior", "find_starts"]

# First strategies beside the additive ones: the same from harms alone and from gains alone, and from costs that noise
# has changed, by so many units of log for each unit and for each kind. A choice, so that directions come apart.
_OWN_NOISE, _KIND_NOISE = 0.7, 0.5
_NOISY = 60
# How many blocks are gone, the least harmful first, beside one scheme for all others.
_GONE = (1, 2, 3, 4, 6, 8, 10, 13, 16, 20)


def additive_starts(
    decoder: Decoder,
    space: PrecisionSpace,
    windows: Tensor,
    journal: Journal,
    *,
    levels: SchemeLevels,
    units: Mapping[str, Sequence[str]],
) -> Start:
    """Measure every scheme for all units and every unit alone, journaled part by part.

    Args:
        decoder: The dense model.
        space: Over it.
        windows: ``m x L`` ranking windows.
        journal: Keeps what is measured.
        levels: Its database.
        units: Unit → its linears.
    """
    evaluator = UnitsEvaluator(decoder, space.name, windows, levels=levels)
    spent = 0

    def measure(note: str, rows: Tensor) -> list[float]:
        nonlocal spent
        spent += len(rows) * windows.numel()
        found: list[float] = note_once(
            journal, note, lambda: [one.value for one in evaluator.evaluate([space.to_units(row) for row in rows])]
        )
        return found

    uniform, divergences = measure_uniform(space, measure)
    wide, narrow = find_neighbours(divergences)
    harm = measure_alone(measure, f"units {narrow} in {wide}", uniform[wide], uniform[narrow]) - divergences[wide]
    gain = divergences[narrow] - measure_alone(measure, f"units {wide} in {narrow}", uniform[narrow], uniform[wide])
    harm, gain = at_least(harm), at_least(gain)
    losses = unit_losses(levels, space, units)
    steps = space.places(uniform[wide]), space.places(uniform[narrow])
    shapes = {"both": (harm * gain).sqrt(), "harm": harm, "gain": gain}
    costs = {name: unit_costs(shape, losses, *steps) for name, shape in shapes.items()}
    if not isinstance(space, CompoundSpace):
        first, plain = find_starts(space, costs)
        return Start(first, find_prior(space, costs["both"]), spent, plain)
    order, harm, alone = measure_rounds(measure, f"blocks in {wide}", space, uniform[wide], divergences[wide])
    gain = at_least(measure_gone(measure, f"blocks in {narrow}", space, uniform[narrow]) - divergences[narrow])
    leaves = {"both": harm * (gain / alone).sqrt(), "harm": harm, "gain": harm * gain / alone}
    beside = (wide, _GONE), (narrow, _GONE), (0, _GONE[:4])
    rows = [space.in_turn(uniform[place], order, counts) for place, counts in beside]
    with_blocks = {name: space.with_blocks(own, leaves[name]) for name, own in costs.items()}
    first, plain = find_starts(space, with_blocks, alone=costs["both"], more=torch.cat(rows))
    return Start(first, find_prior(space, with_blocks["both"]), spent, plain)


def find_prior(space: PrecisionSpace, costs: Tensor) -> Prior:
    """The costs as curves over shares, straight between choices.

    Args:
        space: Over the units.
        costs: ``d x l`` nats per token.
    """
    ladders = [[1.0 - bits / 16.0 for _, bits, _ in row] for row in space.choices]
    knots = torch.tensor(sorted({0.0, *(share for row in ladders for share in row)}), dtype=torch.float64)
    curves = []
    for row, own in zip(ladders, costs, strict=True):
        at = torch.tensor(row, dtype=torch.float64)
        right = torch.searchsorted(at, knots).clamp(1, len(at) - 1)
        part = (knots - at[right - 1]) / (at[right] - at[right - 1])
        curves.append((own[right - 1] + part * (own[right] - own[right - 1])).clamp_min(0.0))
    return Prior(knots, torch.stack(curves))


def find_starts(
    space: PrecisionSpace, costs: Mapping[str, Tensor], *, alone: Tensor | None = None, more: Tensor | None = None
) -> tuple[Tensor, dict[str, Plain]]:
    """First strategies, ``n x d``, and the keys of those that plain methods answer with.

    One scheme for all; the additive answer at every budget from harms and gains together, and with all blocks where
    some may be gone; what else there is; then the additive answers from harms or gains alone, and from costs that noise
    has changed, at budgets in turn.

    Args:
        space: Over the units.
        costs: ``C``, nats per token that each choice of a unit is taken to cost, of ``both``, ``harm`` and ``gain``.
        alone: ``both`` of schemes alone, where blocks may be gone.
        more: Strategies that come before those with noise, ``m x d``.
    """
    budgets = space.budgets
    uniform = torch.stack(list(space.uniform().values()))
    additive = space.cheapest(costs["both"], budgets)
    if alone is not None and isinstance(space, CompoundSpace):
        reached = [budget for budget in budgets if budget < space.stored.most]
        additive = torch.cat([additive, space.stored.cheapest(alone[:, : space.stored.longest + 1], reached)])
    plain: dict[str, Plain] = {space.key(row): "additive" for row in additive}
    plain |= {space.key(row): "uniform" for row in uniform}
    others = [space.cheapest(costs[name], budgets[place::2]) for place, name in enumerate(("harm", "gain"))]
    generator = torch.Generator().manual_seed(0)
    for place in range(_NOISY // len(budgets) + 1 if budgets else 0):
        noise = _OWN_NOISE * torch.randn(len(space.units), generator=generator, dtype=torch.float64)
        noise += _KIND_NOISE * torch.randn(len(space.units), generator=generator, dtype=torch.float64)[space.kinds]
        others.append(space.cheapest(costs["both"] * noise.exp()[:, None], budgets[place % 2 :: 2]))
    first = [uniform, additive, *([] if more is None else [more]), *others]
    return torch.cat(first), plain  # plain ones first
