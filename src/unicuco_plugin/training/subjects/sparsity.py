"""Linears, or groups of them, some of whose weights become zeros."""

from torch import Tensor

from unicuco_plugin.costs.measure import linear_costs
from unicuco_plugin.errors import LevelsError
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.levels.experts import split_experts
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.coverage import measure_coverage
from unicuco_plugin.payload import Payload
from unicuco_plugin.plugins.manager import make_space
from unicuco_plugin.spaces.sparsity import BOUNDS
from unicuco_plugin.spaces.units import group_linears, select_bounds
from unicuco_plugin.training.even_slopes import structural_starts
from unicuco_plugin.training.subject import Ask, Start, Subject

__all__ = ["linear_subject"]


def linear_subject(ask: Ask) -> Subject:
    """Units are blocks, sub-layers or linears of a level database.

    Raises:
        LevelsError: If the level database is missing or unfinished.
        ModelMismatchError: If it was built from another model.
        StrategyError: If units are ignored or bounded that do not exist.
    """
    decoder, units = ask.decoder, ask.units
    if units.levels is None:
        raise LevelsError(f"the space {ask.name!r} needs a level database: unicuco levels build, then --levels DIR")
    levels = Levels.open(units.levels, fingerprint=ask.fingerprint)
    split_experts(decoder.model)
    weights = group_linears(levels.sizes, units.granularity, units.ignore)
    top = levels.sparsities[-1]
    bounds = select_bounds(tuple(weights), (BOUNDS[0], min(BOUNDS[1], top)), units.bounds)
    space = make_space(ask.name, tuple(weights), tuple(weights.values()), bounds)
    header = {
        "levels": [levels.record.calibration.hash, levels.record.settings.model_dump(mode="json")],
        "granularity": units.granularity,
        "ignore": list(units.ignore),
        "bounds": [list(pair) for pair in bounds],
    }

    def start(journal: Journal, windows: Tensor, _payload: Payload | None) -> Start:
        return Start(*structural_starts(decoder, levels, space, windows, journal))

    coverage = sum(weights.values()) / measure_coverage(decoder).blocks
    return Subject(space, linear_costs(decoder, weights), header, levels, None, start, coverage=coverage)
