"""What a server packs into one linear, stored in the schemes of a level database."""

from torch import Tensor

from unicuco_plugin.costs.offered import find_offered
from unicuco_plugin.errors import LevelsError
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.models.blocks.coverage import measure_coverage
from unicuco_plugin.payload import Payload
from unicuco_plugin.plugins.manager import make_space
from unicuco_plugin.schemes import DENSE_BITS
from unicuco_plugin.spaces.precision import PrecisionSpace
from unicuco_plugin.training.additive import additive_starts
from unicuco_plugin.training.subject import Ask, Start, Subject

__all__ = ["stored_subject"]

# Fewer mean bits are searched as far as a request may go, but not for their own sake: at two bits little is left.
_LEAST_BITS = 2.75


def stored_subject(ask: Ask) -> Subject:
    """Units are what a server packs, as far as the database has all of their linears.

    Raises:
        LevelsError: If the level database is missing or unfinished, or offers a unit no scheme.
        ModelMismatchError: If it was built from another model.
        StrategyError: If units are ignored that do not exist, or in part.
    """
    decoder, options = ask.decoder, ask.units
    if options.levels is None:
        raise LevelsError(f"the space {ask.name!r} needs a level database: unicuco levels build, then --levels DIR")
    levels = SchemeLevels.open(options.levels, fingerprint=ask.fingerprint)
    offered = find_offered(decoder, levels, options.ignore)
    costs = offered.costs
    space = make_space(ask.name, costs.units, costs.table.unit_params, choices=costs.table.choices)
    header = {
        "levels": [levels.record.calibration.hash, levels.record.settings.model_dump(mode="json")],
        "ignore": list(options.ignore),
        "left_out": dict(offered.left_out),
    }

    def start(journal: Journal, windows: Tensor, _payload: Payload | None) -> Start:
        if not isinstance(space, PrecisionSpace):  # a plugin may have its own
            return Start()
        return additive_starts(decoder, space, windows, journal, levels=levels, units=offered.units)

    coverage = sum(costs.table.unit_params) / measure_coverage(decoder).blocks
    focus = 1.0 - _LEAST_BITS / DENSE_BITS
    return Subject(space, costs, header, levels, None, start, coverage=coverage, focus=focus)
