"""Linears that compute for a while as if they were stored in schemes of a database."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from torch import Tensor, nn

from unicuco_plugin.levels.scheme_levels import SchemeLevels
from unicuco_plugin.levels.stitch import swapped
from unicuco_plugin.levels.toolkit_scheme import as_toolkit
from unicuco_plugin.models.tensors.storage import read_kept
from unicuco_plugin.schemes import DENSE_BITS, parse_scheme

__all__ = ["round_inputs", "stored"]


@contextmanager
def stored(
    linears: Mapping[str, nn.Linear], levels: SchemeLevels, plan: Mapping[str, str], *, cache_bytes: int = 0
) -> Iterator[None]:
    """Give linears the weights that a client decodes, and round what enters them where the scheme does.

    A model may compute in a wider dtype than the database is in; the numbers are the same.

    Args:
        linears: By full name; those of the plan among them.
        levels: The database.
        plan: Linear → name of a scheme that it is offered.
        cache_bytes: Most bytes of decoded weights that the database keeps.

    Raises:
        LevelsError: If the database lacks a linear or its scheme, or a file is damaged.
    """
    weights = {}
    for name, scheme in plan.items():
        dense = read_kept(linears[name], "weight")
        decode = partial(levels.decode, name, scheme, dense.device)
        weights[name] = levels.decoded.get(name, scheme, dense.device, decode, cache_bytes).to(dense.dtype)
    with ExitStack() as stack:
        stack.enter_context(swapped(linears, weights))
        for name, scheme in plan.items():
            if parse_scheme(scheme).inputs < DENSE_BITS:
                handle = linears[name].register_forward_pre_hook(partial(_round_first, scheme))
                stack.callback(handle.remove)
        yield


def _round_first(scheme: str, linear: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return (round_inputs(scheme, linear, inputs[0]), *inputs[1:])


def round_inputs(scheme: str, linear: nn.Module, x: Tensor) -> Tensor:
    """What enters a linear, rounded for each token by compressed-tensors' own code where the scheme says so."""
    args = as_toolkit(parse_scheme(scheme)).input_activations
    if args is None:
        return x
    with torch.no_grad():
        scale, zero_point = compute_dynamic_scales_and_zp(value=x, args=args, module=linear)
        return fake_quantize(x=x, scale=scale, zero_point=zero_point, args=args)
