"""What a peer or a file of its names as units, written as a strategy like any other."""

from collections.abc import Mapping

from unicuco_plugin.models.decoder import Decoder
from unicuco_plugin.models.sizes import measure_sizes
from unicuco_plugin.models.sublayers import sublayer_params
from unicuco_plugin.peers.blocks import depth_space
from unicuco_plugin.request import Request
from unicuco_plugin.strategy import ModelReference, Source, Strategy, split_halves

__all__ = ["make_strategy", "removed_share"]


def removed_share(decoder: Decoder, space: str, units: Mapping[str, float]) -> float:
    """Share that goes of all blocks' parameters, or of all sub-layers' for the space ``sublayer``."""
    if space == "sublayer":
        sizes = sublayer_params(decoder)
        return sum(sizes[name] for name in units) / sum(sizes.values())
    whole = depth_space(decoder)
    return whole.sparsity(whole.from_units(units)[None]).item()


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
    sizes = measure_sizes(decoder)
    leaving = {"depth": tuple(units), "sublayer": split_halves(units)[0]}.get(space, ())
    gone = [index for index, name in enumerate(decoder.block_names) if name in leaving]
    return Strategy(
        space=space,
        model=model,
        request=request,
        sparsity=sparsity,
        params=sizes.params_without(gone),
        bytes=sizes.bytes_without(gone),
        source=source,
        peer=peer,
        divergence=None,
        units=dict(units),
    )
