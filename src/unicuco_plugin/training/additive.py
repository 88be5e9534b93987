r"""What single units say before a strategy of bits is measured: first strategies, and a prior.

What a unit costs is measured twice: as harm, where all others have the wider of two schemes and it alone the narrower,
and as gain, where all others have the narrower. Costs do not add up, so the two differ by a factor of several; their
geometric mean stands for what lies between. Along its other schemes a unit's cost goes as what the database says that
they lose of its outputs.

====== ===== ==================================================================================
symbol shape meaning
====== ===== ==================================================================================
harm   d     nats per token that a unit adds when it alone gets the narrower scheme
gain   d     nats per token that it saves when it alone gets the wider one
C      d x l nats per token that each choice of a unit is taken to cost; 0 where it is left alone
====== ===== ==================================================================================
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.journal.once import note_once
from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.objectives.floor import LEAST
from unicuco_plugin.objectives.units import UnitsEvaluator
from unicuco_plugin.policy.prior import Prior
from unicuco_plugin.schemes import DENSE
from unicuco_plugin.spaces.precision import PrecisionSpace
from unicuco_plugin.strategy import Plain
from unicuco_plugin.training.subject import Start

__all__ = ["additive_starts", "find_prior", "find_starts", "unit_costs"]

# The two schemes are neighbours whose divergences, all units alike, are on either side of this: nats per token where
# allocations matter, and people still ship.
_MIDDLE = 0.5
# Units measured together and journaled: beside one another they share the blocks before them.
_TOGETHER = 12
# Of the median, the least that a unit's harm or gain counts: noise makes some of them negative.
_LEAST_SHARE = 0.05
# First strategies beside the additive ones: the same from harms alone and from gains alone, and from costs that noise
# has changed, by so many units of log for each unit and for each kind. A choice, so that directions come apart.
_OWN_NOISE, _KIND_NOISE = 0.7, 0.5
_NOISY = 60


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

    uniform = torch.stack([torch.zeros(len(space.units), dtype=torch.float64), *space.uniform().values()])
    divergences = [0.0, *measure("uniform", uniform[1:])]
    wide, narrow = _pair(divergences)
    harms, gains = [], []
    eye = torch.eye(len(space.units), dtype=torch.float64).bool()
    for start in range(0, len(space.units), _TOGETHER):
        alone = eye[start : start + _TOGETHER]
        rows = torch.cat(
            [torch.where(alone, uniform[narrow], uniform[wide]), torch.where(alone, uniform[wide], uniform[narrow])]
        )
        values = torch.tensor(measure(f"units {wide} {narrow} from {start}", rows), dtype=torch.float64)
        harms.append(values[: len(alone)] - divergences[wide])
        gains.append(divergences[narrow] - values[len(alone) :])
    losses = _losses(levels, space, units)
    steps = space.places(uniform[wide]), space.places(uniform[narrow])
    pair = torch.cat(harms), torch.cat(gains)
    costs = {name: unit_costs(harm, losses, *steps) for name, harm in _shapes(*pair).items()}
    first, plain = find_starts(space, costs)
    return Start(first, find_prior(space, costs["both"]), spent, plain)


def _pair(divergences: Sequence[float]) -> tuple[int, int]:
    """Neighbours, by places in a list of rising divergences; the dense model, its first, only where it must be."""
    places = list(pairwise(range(len(divergences))))
    far = [
        abs(0.5 * math.log(max(divergences[a], LEAST) * max(divergences[b], LEAST)) - math.log(_MIDDLE))
        for a, b in places
    ]
    others = places[1:] or places
    return min(others, key=lambda pair: far[places.index(pair)])


def _shapes(harm: Tensor, gain: Tensor) -> dict[str, Tensor]:
    harm, gain = (one.clamp_min(max(_LEAST_SHARE * one.median().item(), LEAST)) for one in (harm, gain))
    return {"both": (harm * gain).sqrt(), "harm": harm, "gain": gain}


def _losses(levels: SchemeLevels, space: PrecisionSpace, units: Mapping[str, Sequence[str]]) -> Tensor:
    """What each choice loses of a unit's outputs, ``d x l``; infinite where there is no such choice."""
    found = torch.full((len(space.units), max(map(len, space.choices))), torch.inf, dtype=torch.float64)
    for row, unit, choices in zip(found, space.units, space.choices, strict=True):
        for place, (name, *_) in enumerate(choices):
            row[place] = 0.0 if name == DENSE else sum(levels.loss(linear, name) for linear in units[unit])
    return found


def unit_costs(harm: Tensor, losses: Tensor, wide: Tensor, narrow: Tensor) -> Tensor:
    """``C``: a unit's cost from one scheme to the other is ``harm``, and goes as its losses elsewhere.

    Args:
        harm: ``d``, positive.
        losses: ``d x l``, rising, infinite where a unit has no more choices.
        wide: ``d`` places of the wider scheme.
        narrow: ``d`` places of the narrower one.
    """
    between = losses.gather(1, narrow[:, None]) - losses.gather(1, wide[:, None])
    return harm[:, None] * losses / between


def find_prior(space: PrecisionSpace, costs: Tensor) -> Prior:
    """The costs as curves over shares, straight between choices.

    Args:
        space: Over the units.
        costs: ``C``.
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


def find_starts(space: PrecisionSpace, costs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Plain]]:
    """First strategies, ``n x d``, and the keys of those that plain methods answer with.

    One scheme for all; the additive answer at every budget from harms and gains together; then from either alone, and
    from costs that noise has changed, at budgets in turn.

    Args:
        space: Over the units.
        costs: ``C`` of ``both``, ``harm`` and ``gain``.
    """
    budgets = space.budgets
    uniform = torch.stack(list(space.uniform().values()))
    additive = space.cheapest(costs["both"], budgets)
    plain: dict[str, Plain] = {space.key(row): "additive" for row in additive}
    plain |= {space.key(row): "uniform" for row in uniform}
    others = [space.cheapest(costs[name], budgets[place::2]) for place, name in enumerate(("harm", "gain"))]
    generator = torch.Generator().manual_seed(0)
    for place in range(_NOISY // len(budgets) + 1 if budgets else 0):
        noise = _OWN_NOISE * torch.randn(len(space.units), generator=generator, dtype=torch.float64)
        noise += _KIND_NOISE * torch.randn(len(space.units), generator=generator, dtype=torch.float64)[space.kinds]
        others.append(space.cheapest(costs["both"] * noise.exp()[:, None], budgets[place % 2 :: 2]))
    return torch.cat([uniform, additive, *others]), plain
