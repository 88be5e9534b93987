"""What a peer or a file of its names as units, written as a strategy like any other."""

from collections.abc import Mapping

from unicuco_plugin.costs.measure import measure_costs
from unicuco_plugin.costs.model import removed_share
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.request import Request
from unicuco_plugin.strategy import ModelReference, Source, Strategy

__all__ = ["make_strategy", "share_of_units"]


def share_of_units(decoder: Decoder, space: str, units: Mapping[str, float]) -> float:
    """Share that goes of the prunable weights: of all blocks' parameters, of sub-layers' where these are the units."""
    costs = measure_costs(decoder, space)
    return removed_share(costs.params, costs.row(units)).item()


def make_strategy(
    decoder: Decoder,
    space: str,
    units: Mapping[str, float],
    *,
    model: ModelReference,
    sparsity: float,
    request: Request,
    source: Source,
    peer: str | None = None,
) -> Strategy:
    """Add to units what they leave of the checkpoint; nobody measured their divergence.

    Args:
        decoder: The dense model.
        space: Of the units.
        units: Unit name → share removed in (0, 1].
        model: The dense model's name and fingerprint.
        sparsity: Share removed of all prunable weights.
        request: What they answer.
        source: Where they come from.
        peer: The peer's name.
    """
    costs = measure_costs(decoder, space)
    x = costs.row(units)
    return Strategy(
        space=space,
        model=model,
        request=request,
        sparsity=sparsity,
        params=int(costs.of("params", x)),
        bytes=int(costs.of("bytes", x)),
        source=source,
        peer=peer,
        divergence=None,
        units=dict(units),
    )
