"""What a server packs into one linear, stored in the schemes of a level database or gone with its block."""

from typing import Any

from torch import Tensor

from unicuco_plugin.costs.model import TableCosts
from unicuco_plugin.costs.offered import OfferedSchemes, find_offered
from unicuco_plugin.costs.stored import leaving_costs
from unicuco_plugin.errors import LevelsError, UnsupportedModelError
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.models.blocks.coverage import measure_coverage
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.needed import needed_blocks
from unicuco_plugin.payload import Payload
from unicuco_plugin.plugins.manager import make_space
from unicuco_plugin.schemes import DENSE_BITS
from unicuco_plugin.spaces.precision import PrecisionSpace
from unicuco_plugin.spaces.units import name_block
from unicuco_plugin.training.additive import additive_starts
from unicuco_plugin.training.subject import Ask, Start, Subject
from unicuco_plugin.traits import traits_of

__all__ = ["stored_subject"]

# Fewer mean bits are searched as far as a request may go, but not for their own sake: at two bits little is left, and
# at one, where blocks go.
_LEAST_BITS, _LEAST_WHERE_BLOCKS_GO = 2.75, 1.0
# Nats per token: with eight bits and more all methods answer alike, and half of the picks went there.
_NEGLIGIBLE = 0.005
# First strategies where blocks go: additive ones with and without blocks, and blocks alone beside uniform schemes.
_INITIAL = 100


def stored_subject(ask: Ask) -> Subject:
    """Units are what a server packs, as far as the database has all of their linears.

    Raises:
        LevelsError: If the level database is missing or unfinished, or offers a unit no scheme.
        UnsupportedModelError: If blocks may go, and there are fewer than two.
        ModelMismatchError: If it was built from another model.
        StrategyError: If units are ignored that do not exist, or in part.
    """
    decoder, options = ask.decoder, ask.units
    if options.levels is None:
        raise LevelsError(f"the space {ask.name!r} needs a level database: unicuco levels build, then --levels DIR")
    levels = SchemeLevels.open(options.levels, fingerprint=ask.fingerprint)
    offered = find_offered(decoder, levels, options.ignore)
    costs, whole = offered.costs, traits_of(ask.name).whole
    needed: tuple[tuple[int, ...], ...] = ()
    if whole:
        costs, needed = _where_blocks_go(decoder, offered)
    table, physical = costs.table, costs.physical
    space = make_space(
        ask.name, costs.units, table.unit_params, needed=needed, choices=table.choices, physical=physical
    )
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
    least = _LEAST_WHERE_BLOCKS_GO if whole else _LEAST_BITS
    defaults: dict[str, Any] = {"focus": 1.0 - least / DENSE_BITS, "negligible": _NEGLIGIBLE}
    defaults |= {"initial": _INITIAL} if whole else {}
    return Subject(space, costs, header, levels, None, start, coverage=coverage, defaults=defaults)


def _where_blocks_go(decoder: Decoder, offered: OfferedSchemes) -> tuple[TableCosts, tuple[tuple[int, ...], ...]]:
    """Costs of strategies that leave out blocks, and groups of units of which one each has to stay for generation."""
    if len(decoder.blocks) < 2:
        label = type(decoder.model).__name__
        raise UnsupportedModelError(f"{label}: blocks may go where there are two or more; take the space precision")
    groups = [{decoder.block_names[index] for index in group} for group in needed_blocks(decoder)]
    lone = {name for group in groups if len(group) == 1 for name in group}
    ignored = {name_block(unit) for unit in offered.ignored}
    if lone | ignored >= set(decoder.block_names):
        raise UnsupportedModelError(
            f"no block may leave {type(decoder.model).__name__}: each has units that are ignored, or generation needs "
            "it; take the space precision"
        )
    costs = leaving_costs(decoder, offered.costs, lone | ignored)
    own = list(map(name_block, costs.units))
    # Of a group with a block that never leaves, one stays anyway.
    free = [group for group in groups if group <= costs.table.blocks.keys()]
    return costs, tuple(tuple(unit for unit, block in enumerate(own) if block in group) for group in free)
