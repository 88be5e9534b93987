"""A scheme as compressed-tensors has it."""

from functools import cache

from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, preset_name_to_scheme

from unicuco_plugin.schemes import Scheme

__all__ = ["as_toolkit"]


@cache
def as_toolkit(scheme: Scheme) -> QuantizationScheme:
    """Give the scheme to the toolkit, for all linears; do not write to what is returned."""
    if scheme.format != "pack-quantized":
        return preset_name_to_scheme(scheme.name, ["Linear"])
    weights = QuantizationArgs(
        num_bits=scheme.bits,
        symmetric=scheme.symmetric,
        strategy="group" if scheme.group else "channel",
        group_size=scheme.group,
    )
    return QuantizationScheme(targets=["Linear"], weights=weights)
