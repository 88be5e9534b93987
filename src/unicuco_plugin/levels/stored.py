"""What enters linears that are stored in schemes."""

import torch
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from torch import Tensor, nn

from unicuco_plugin.levels.toolkit_scheme import as_toolkit
from unicuco_plugin.schemes import parse_scheme

__all__ = ["round_inputs"]


def round_inputs(scheme: str, linear: nn.Module, x: Tensor) -> Tensor:
    """What enters a linear, rounded for each token by compressed-tensors' own code where the scheme says so."""
    args = as_toolkit(parse_scheme(scheme)).input_activations
    if args is None:
        return x
    with torch.no_grad():
        scale, zero_point = compute_dynamic_scales_and_zp(value=x, args=args, module=linear)
        return fake_quantize(x=x, scale=scale, zero_point=zero_point, args=args)
