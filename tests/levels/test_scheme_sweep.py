"""Every scheme of a sweep against the toolkit's own GPTQ at that scheme."""

import pytest
import torch
from compressed_tensors.quantization import ActivationOrdering
from compressed_tensors.quantization.lifecycle.forward import quantize
from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight
from llmcompressor.observers import Observer
from test_sweep import make_linear

from unicuco_plugin.levels.packed import pack, unpack
from unicuco_plugin.levels.scheme_sweep import solve_schemes
from unicuco_plugin.levels.sweep import factor_hessian
from unicuco_plugin.levels.toolkit_scheme import as_toolkit
from unicuco_plugin.schemes import parse_scheme

EVERY = ("W8A16", "W8A8", "FP8_DYNAMIC", "W5A16:asym", "W4A16:channel", "NVFP4A16", "W4A16:g32:asym", "W3A16", "W2A16")
WIDTHS = ("W2A16", "W3A16", "W4A16", "W5A16", "W6A16", "W8A16")


def resolved(names, columns):
    return [parse_scheme(name).for_inputs(columns) for name in names]


def toolkit(W, H, scheme, *, actorder="static"):
    """What the toolkit makes of a weight: numbers that its clients compute with, codes, loss, whether it rounded."""
    arguments = as_toolkit(scheme).weights.model_copy(update={"actorder": actorder and ActivationOrdering(actorder)})
    observer = Observer.load_from_registry("memoryless_minmax", base_name="weight", args=arguments)
    observer(W)
    found = observer.get_qparams()
    overall = found["global_scale"]
    stacked, losses, rounded = quantize_weight(
        weights=W.float()[None].clone(),
        hessians=H[None].clone(),
        scale=found["scale"][None],
        zero_point=found["zero_point"][None],
        global_scale=overall,
        quant_args=arguments,
    )
    codes = quantize(stacked[0], found["scale"].float(), found["zero_point"].float(), arguments, global_scale=overall)
    return stacked[0], codes, losses.item(), bool(rounded)


@pytest.mark.parametrize("actorder", ["static", None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("rows", "columns", "dead"),
    [(512, 256, ()), (384, 192, (3, 40)), (257, 96, ()), (1, 32, (0, 31))],
    ids=["whole blocks", "odd end, dead", "one short block", "one row"],
)
def test_every_scheme_is_the_toolkits_gptq(rows, columns, dead, dtype, actorder):
    linear, H = make_linear(rows, columns, dead=dead)
    W = linear.weight.data.to(dtype)
    factor = factor_hessian(H, largest_first=actorder is not None)
    schemes = resolved(EVERY, columns)
    for scheme, mine in zip(schemes, solve_schemes(W, factor, schemes), strict=True):
        weight, codes, loss, _ = toolkit(W, H, scheme, actorder=actorder)
        assert mine.scheme == scheme
        # Eight bits stand in the middle between two codes more often, as far as float32 can tell.
        least = 0.999 if scheme.bits < 8 else 0.995
        assert (mine.codes.float() == codes.float()).double().mean() >= least
        assert mine.loss.item() == pytest.approx(loss, rel=1e-4)
        decoded = unpack(scheme, pack(mine), dtype)
        same = (decoded - weight.to(decoded.dtype)).abs() <= 2e-2 * weight.abs()  # NVFP4 is decoded in bfloat16
        assert same.double().mean() >= least
