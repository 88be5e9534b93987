"""What a peer or a file of its names as units, written as a strategy like any other."""

from collections.abc import Mapping

from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.sizes import measure_sizes
from unicuco_plugin.models.blocks.sublayers import sublayer_params
from unicuco_plugin.models.parts.parts import find_parts, leaving_blocks
from unicuco_plugin.models.tensors.storage import count_parameters
from unicuco_plugin.peers.blocks import depth_space
from unicuco_plugin.request import Request
from unicuco_plugin.strategy import ModelReference, Source, Strategy, split_halves
from unicuco_plugin.traits import traits_of

__all__ = ["make_strategy", "removed_share"]

# At most so many bytes of a file's header tell of one tensor.
_ENTRY = 256


def removed_share(decoder: Decoder, space: str, units: Mapping[str, float]) -> float:
    """Share that goes of all blocks' parameters, or of all sub-layers' where these are the units."""
    if traits_of(space).halves:
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
    whole = tuple(unit for unit, share in units.items() if share == 1.0)
    traits = traits_of(space)
    left_out: tuple[str, ...] = ()
    if traits.cuts:
        leaving = leaving_blocks(decoder, find_parts(decoder))
        left_out = tuple(block for block, names in leaving.items() if set(whole) >= set(names))
    elif traits.whole:
        left_out = split_halves(units)[0] if traits.halves else tuple(units)
    gone = [index for index, name in enumerate(decoder.block_names) if name in left_out]
    staying = {unit: share for unit, share in units.items() if unit.rpartition(".")[0] not in left_out}
    lost, biases = _part_params(decoder, staying) if traits.cuts else (0, 0)
    return Strategy(
        space=space,
        model=model,
        request=request,
        sparsity=sparsity,
        params=sizes.params_without(gone) - lost,
        bytes=sizes.bytes_without(gone) - lost * sizes.bytes_per_param + biases * _ENTRY,
        source=source,
        peer=peer,
        divergence=None,
        units=dict(units),
    )


def _part_params(decoder: Decoder, units: Mapping[str, float]) -> tuple[int, int]:
    """Parameters that blocks which stay lack in the compact checkpoint, and how many biases they gain."""
    parts, lost, biases = find_parts(decoder), 0, 0
    for name, share in units.items():
        part = parts[name]
        output = decoder.model.get_submodule(part.output)
        gone = round(share * part.count)
        gains = 0 < gone < part.count and getattr(output, "bias", None) is None
        biases += gains
        whole = count_parameters(decoder.model.get_submodule(name))
        lost += whole if gone == part.count else gone * part.params
        lost -= output.get_parameter("weight").shape[0] if gains else 0
    return lost, biases
