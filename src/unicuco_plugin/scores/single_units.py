r"""What the schemes of single units cost, taken to add up, from divergences measured one unit at a time.

A unit's cost depends on where the others stand: where they are dense, it alone gets a scheme; as harm, it alone gets
the narrower of two schemes; as gain, it alone gets the wider one. Along its other schemes a unit's cost goes as what
the database says that they lose of its outputs.

====== ===== ==================================================================================
symbol shape meaning
====== ===== ==================================================================================
D      d     divergence where one unit at a time has another scheme than all others, nats per token
harm   d     nats per token between two schemes of a unit, positive
C      d x l nats per token that each choice of a unit is taken to cost; infinite where it has fewer
====== ===== ==================================================================================
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from unicuco_plugin.errors import LevelsError
from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.schemes import DENSE, REMOVED
from unicuco_plugin.spaces.compound import CompoundSpace
from unicuco_plugin.spaces.precision import PrecisionSpace

__all__ = [
    "Measure",
    "at_least",
    "find_neighbours",
    "linear_schemes",
    "measure_alone",
    "measure_gone",
    "measure_rounds",
    "measure_uniform",
    "unit_costs",
    "unit_losses",
    "unit_scores",
]

Measure = Callable[[str, Tensor], Sequence[float]]
"""What is measured, by a name for journals, and ``n x d`` strategies → ``n`` divergences, nats per token."""

# The two schemes are neighbours whose divergences, all units alike, are on either side of this: nats per token where
# allocations matter, and people still ship.
_MIDDLE = 0.5
# Units measured together and journaled: beside one another they share the blocks before them.
_TOGETHER = 12
# Of the median, the least that a unit's harm counts: noise makes some of them negative.
_LEAST_SHARE = 0.05
# Blocks are measured again after so many parts of them are gone, until one in so many is.
_ROUNDS, _HALF = 8, 2
# Nats per token that are taken to be none, so that logarithms are finite.
_LEAST = 1e-12


def measure_uniform(space: PrecisionSpace, measure: Measure) -> tuple[Tensor, list[float]]:
    """The dense model and every scheme for all units, ``k x d``, and their divergences; from most bits to least.

    Raises:
        LevelsError: If no scheme is offered to most of the units.
    """
    schemes = list(space.uniform().values())
    if not schemes:
        raise LevelsError(
            f"the level database offers no scheme to more than half of {len(space.units)} units, and each is measured "
            "where all others have one: build it with schemes that all linears can have, such as W4A16:g32"
        )
    found = measure("uniform", torch.stack(schemes))
    return torch.stack([torch.zeros(len(space.units), dtype=torch.float64), *schemes]), [0.0, *found]


def find_neighbours(divergences: Sequence[float]) -> tuple[int, int]:
    """Two places next to each other in a list of rising divergences, around half a nat.

    The first place, the dense model's, is taken only where there is no other.
    """
    places = list(pairwise(range(len(divergences))))
    logs = [math.log(max(value, _LEAST)) for value in divergences]
    others = places[1:] or places
    return min(others, key=lambda pair: abs(0.5 * (logs[pair[0]] + logs[pair[1]]) - math.log(_MIDDLE)))


def measure_alone(measure: Measure, name: str, others: Tensor, alone: Tensor) -> Tensor:
    """``D``: one unit at a time as in ``alone``, ``d``, all others as in ``others``, ``d``."""
    one = torch.eye(len(others), dtype=torch.bool)
    found: list[float] = []
    for start in range(0, len(others), _TOGETHER):
        found += measure(f"{name} from {start}", torch.where(one[start : start + _TOGETHER], alone, others))
    return torch.tensor(found, dtype=torch.float64)


def measure_gone(measure: Measure, name: str, space: CompoundSpace, others: Tensor, gone: Sequence[int] = ()) -> Tensor:
    """Divergences where one more block at a time is gone and all others are as in ``others``, ``b``.

    Args:
        measure: As above.
        name: Of what is measured.
        space: Of the strategies.
        others: ``d``.
        gone: Numbers of blocks that are gone in any case; infinite for them, and where a block is needed.
    """
    which = torch.eye(len(space.blocks)) > 0.0
    which[:, list(gone)] = True
    able = space.may_be_gone(which)
    able[list(gone)] = False
    found = torch.full((len(which),), torch.inf, dtype=torch.float64)
    for number, rows in enumerate(able.nonzero()[:, 0].split(_TOGETHER)):
        values = measure(f"{name} from {number * _TOGETHER}", space.gone(others, which[rows]))
        found[rows] = torch.tensor(values, dtype=torch.float64)
    return found


def measure_rounds(
    measure: Measure, name: str, space: CompoundSpace, others: Tensor, start: float
) -> tuple[Tensor, Tensor]:
    """In which order blocks go, and what it costs.

    After every eighth of them all others are measured again beside those that are gone, up to half of them: blocks
    that go together cost more than each alone, and others then go first.

    Args:
        measure: As above.
        name: Of what is measured.
        space: Of the strategies.
        others: What blocks that stay have, ``d``.
        start: The divergence of that, nats per token.

    Returns:
        Numbers of blocks, the least harmful first, and nats per token that each costs where its turn has come.
    """
    count = len(space.blocks)
    gone: list[int] = []
    costs = at_least(measure_gone(measure, name, space, others) - start)
    while True:
        rest = [block for block in costs.argsort(stable=True).tolist() if block not in gone]
        if len(gone) >= count // _HALF:
            return torch.tensor([*gone, *rest]), costs
        gone += rest[: -(-count // _ROUNDS)]
        which = torch.zeros(1, count, dtype=torch.bool)
        which[0, gone] = True
        if not bool(space.may_be_gone(which)):
            return torch.tensor([*gone, *rest[-(-count // _ROUNDS) :]]), costs
        label = f"{name} without {','.join(map(str, gone))}"
        [start] = measure(label, space.gone(others, which))
        found = measure_gone(measure, label, space, others, gone)
        costs = torch.where(found.isfinite(), at_least(found - start), costs)


def at_least(harm: Tensor) -> Tensor:
    """Harms or gains, ``d``, none of them below a small share of the median of those that are finite."""
    finite = harm[harm.isfinite()]
    return harm.clamp_min(max(_LEAST_SHARE * finite.median().item() if len(finite) else 0.0, _LEAST))


def unit_losses(levels: SchemeLevels, space: PrecisionSpace, units: Mapping[str, Sequence[str]]) -> Tensor:
    """What each choice loses of a unit's outputs, ``d x l``; infinite where there is no such choice, or it is gone."""
    return _table(space, units, levels.loss)


def linear_schemes(space: PrecisionSpace, units: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The schemes of each linear that a strategy may have, from most bits to least."""
    return {
        name: [scheme for scheme, *_ in choices if scheme not in (DENSE, REMOVED)]
        for unit, choices in zip(space.units, space.choices, strict=True)
        for name in units[unit]
    }


def unit_scores(
    space: PrecisionSpace, units: Mapping[str, Sequence[str]], scores: Mapping[str, Mapping[str, float]]
) -> Tensor:
    """Scores of every linear in every scheme added up over units, ``d x l``; 0 where a unit is left alone."""
    return _table(space, units, lambda linear, scheme: scores[linear][scheme])


def _table(space: PrecisionSpace, units: Mapping[str, Sequence[str]], of: Callable[[str, str], float]) -> Tensor:
    found = torch.full((len(space.units), max(map(len, space.choices))), torch.inf, dtype=torch.float64)
    for row, unit, choices in zip(found, space.units, space.choices, strict=True):
        for place, (scheme, *_) in enumerate(choices):
            if scheme != REMOVED:
                row[place] = 0.0 if scheme == DENSE else sum(of(linear, scheme) for linear in units[unit])
    return found


def unit_costs(harm: Tensor, losses: Tensor, wide: Tensor, narrow: Tensor) -> Tensor:
    """``C``: a unit's cost from one scheme to the other is ``harm``, and goes as its losses elsewhere.

    A unit that loses no more in the narrower one costs nothing anywhere.

    Args:
        harm: ``d``, positive.
        losses: ``d x l``, infinite where a unit has no more choices.
        wide: ``d`` places of the wider scheme.
        narrow: ``d`` places of the narrower one.
    """
    # A unit that lacks both has one scheme in their place, whose cost is from being dense.
    start = torch.where(wide == narrow, 0.0, losses.gather(1, wide[:, None])[:, 0])[:, None]
    between = losses.gather(1, narrow[:, None]) - start
    price = torch.where(between > 0.0, harm[:, None] / between, 0.0)
    return (price * losses).masked_fill(losses.isinf(), torch.inf)
