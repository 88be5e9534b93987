r"""What single units say before a strategy of bits is measured: first strategies, and a prior.

What a unit costs is measured where all others are dense (:mod:`unicuco_plugin.scores.single_units`), and scored by
gradients (:mod:`unicuco_plugin.scores.output_changes`); their geometric mean stands for both. Where all others have few
bits, what a unit adds drowns in how its errors happen to meet those of others: on SmolLM2-135M at 3.5 bits such costs
led to 0.71 nats and more, these to 0.54. What it costs that whole blocks are gone, where they may be, is measured in
rounds where all others are dense.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.journal.once import note_once
from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.tensors.memory import Fitting
from unicuco_plugin.objectives.floor import LEAST
from unicuco_plugin.objectives.room import Room
from unicuco_plugin.objectives.units import UnitsEvaluator
from unicuco_plugin.policy.prior import Prior
from unicuco_plugin.scores.output_changes import changes_tokens, output_changes
from unicuco_plugin.scores.single_units import (
    at_least,
    find_neighbours,
    linear_schemes,
    measure_alone,
    measure_rounds,
    measure_uniform,
    unit_costs,
    unit_losses,
    unit_scores,
)
from unicuco_plugin.spaces.compound import CompoundSpace
from unicuco_plugin.spaces.precision import PrecisionSpace
from unicuco_plugin.strategy import Plain
from unicuco_plugin.training.subject import Start

__all__ = ["additive_starts", "find_prior", "find_starts"]

# First strategies beside the additive ones: the same from either kind of costs alone, and from costs that noise has
# changed, by so many units of log for each unit and for each kind. A choice, so that directions come apart.
_OWN_NOISE, _KIND_NOISE = 0.7, 0.5
_NOISY = 60
# How many blocks are gone, the least harmful first, beside one scheme for all others, and in the dense model.
_GONE, _GONE_ALONE = (1, 2, 3, 4, 6, 8, 10, 13, 16, 20), (1, 2, 3, 5)


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

    room = Room()

    def measure(note: str, rows: Tensor) -> list[float]:
        nonlocal spent
        spent += len(rows) * windows.numel()
        units = [space.to_units(row) for row in rows]
        found: list[float] = note_once(
            journal, note, lambda: [one.value for one in room.measure(evaluator.evaluate, units)]
        )
        return found

    uniform, divergences = measure_uniform(space, measure)
    wide, narrow = find_neighbours(divergences)
    alone = measure_alone(measure, f"units {narrow} alone", uniform[0], uniform[narrow])
    losses, steps = unit_losses(levels, space, units), (space.places(uniform[0]), space.places(uniform[narrow]))
    measured = unit_costs(at_least(alone), losses, *steps)
    schemes, fitting = linear_schemes(space, units), Fitting(1)
    scores = note_once(
        journal, "output changes", lambda: fitting(lambda _: output_changes(decoder, levels, schemes, windows))
    )
    spent += changes_tokens(schemes, windows)
    gradient = unit_scores(space, units, scores)
    costs = {"both": (measured * gradient).sqrt(), "measured": measured, "gradient": gradient}
    alone_costs, more = costs["both"], None
    if isinstance(space, CompoundSpace):
        order, leaves = measure_rounds(measure, "blocks", space, uniform[0], 0.0)
        beside = (uniform[wide], _GONE), (uniform[narrow], _GONE), (uniform[0], _GONE_ALONE)
        more = torch.cat([space.in_turn(x, order, counts) for x, counts in beside])
        known = [(space.places(uniform[place]), divergences[place]) for place in {wide, narrow} - {0}]
        costs = {name: space.with_blocks(in_nats(own, known), leaves) for name, own in costs.items()}
    first, plain = find_starts(space, costs, alone=alone_costs, more=more)
    return Start(first, find_prior(space, costs["both"]), spent, plain)


def in_nats(costs: Tensor, known: Sequence[tuple[Tensor, float]]) -> Tensor:
    """Costs ``d x l`` on any scale, on that on which they add up to divergences, as nearly as one factor goes.

    Args:
        costs: Of choices.
        known: Places of strategies, ``d``, and their divergences, nats per token.
    """
    logs = [math.log(max(value, LEAST) / costs.gather(1, k[:, None]).sum().item()) for k, value in known]
    return costs * math.exp(sum(logs) / len(logs))


def find_prior(space: PrecisionSpace, costs: Tensor) -> Prior:
    """The costs as curves over shares, straight between choices.

    Args:
        space: Over the units.
        costs: ``d x l``, in any unit: the surrogate finds their scale.
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

    One scheme for all; the additive answer at every budget from both kinds of costs together, and with all blocks where
    some may be gone; what else there is; then the additive answers from either kind alone, and from costs that noise
    has changed, at budgets in turn.

    Args:
        space: Over the units.
        costs: ``C``, what each choice of a unit is taken to cost, on any scale: of ``both``, and of others by name.
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
    apart = [own for name, own in costs.items() if name != "both"]
    others = [space.cheapest(own, budgets[place :: len(apart)]) for place, own in enumerate(apart)]
    generator = torch.Generator().manual_seed(0)
    for place in range(_NOISY // len(budgets) + 1 if budgets else 0):
        noise = _OWN_NOISE * torch.randn(len(space.units), generator=generator, dtype=torch.float64)
        noise += _KIND_NOISE * torch.randn(len(space.units), generator=generator, dtype=torch.float64)[space.kinds]
        others.append(space.cheapest(costs["both"] * noise.exp()[:, None], budgets[place % 2 :: 2]))
    first = [uniform, additive, *([] if more is None else [more]), *others]
    return torch.cat(first), plain  # plain ones first
