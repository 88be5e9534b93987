"""What a peer or a file of its names as units, written as a strategy like any other."""

from collections.abc import Mapping
from typing import Any

from unicuco_plugin.costs.measure import measure_costs
from unicuco_plugin.costs.model import removed_share
from unicuco_plugin.costs.offered import find_offered
from unicuco_plugin.levels.database import Database
from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.request import Request
from unicuco_plugin.spaces.precision import PrecisionSpace
from unicuco_plugin.strategy import ModelReference, Source, Strategy

__all__ = ["make_strategy", "share_of_units"]


def share_of_units(decoder: Decoder, space: str, units: Mapping[str, float]) -> float:
    """Share that goes of the prunable weights: of all blocks' parameters, of sub-layers' where these are the units."""
    costs = measure_costs(decoder, space)
    return removed_share(costs.params, costs.row(units)).item()


def make_strategy(
    decoder: Decoder,
    space: str,
    units: Mapping[str, Any],
    *,
    model: ModelReference,
    sparsity: float,
    request: Request,
    source: Source,
    peer: str | None = None,
    levels: Database | None = None,
) -> Strategy:
    """Add to units what they leave of the checkpoint; nobody measured their divergence.

    Args:
        decoder: The dense model.
        space: Of the units.
        units: Unit name → share removed in (0, 1], or scheme.
        model: The dense model's name and fingerprint.
        sparsity: Share removed of all prunable weights.
        request: What they answer.
        source: Where they come from.
        peer: The peer's name.
        levels: The database that schemes, or shares, are of.
    """
    if isinstance(levels, SchemeLevels):
        costs = find_offered(decoder, levels).costs
        x = PrecisionSpace(costs.units, costs.table.unit_params, costs.table.choices).from_units(units)[None]
    else:
        costs = measure_costs(decoder, space)
        x = costs.row(units)
    bits = round(costs.of("bits", x).item(), 9) if costs.table.choices else None
    return Strategy(
        space=space,
        model=model,
        request=request,
        sparsity=sparsity if bits is None else 0.0,
        bits=bits,
        params=int(costs.of("params", x)),
        bytes=int(costs.of("bytes", x)),
        source=source,
        peer=peer,
        levels=None if levels is None else levels.record.identity,
        divergence=None,
        units=dict(units),
    )
