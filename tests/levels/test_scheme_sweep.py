"""Every scheme of a sweep against the toolkit's own GPTQ at that scheme."""

import pytest
import torch
from compressed_tensors.quantization import ActivationOrdering
from compressed_tensors.quantization.lifecycle.forward import quantize
from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight
from llmcompressor.observers import Observer
from test_sweep import make_linear

from unicuco_plugin.errors import LevelsError
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


@pytest.mark.slow
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
        # As they stand, columns of large inputs may come late, and carry what such a weight changes in its row.
        assert mine.loss.item() == pytest.approx(loss, rel=1e-4 if actorder else 1e-3)
        decoded = unpack(scheme, pack(mine), dtype)
        same = (decoded - weight.to(decoded.dtype)).abs() <= 2e-2 * weight.abs()  # NVFP4 is decoded in bfloat16
        assert same.double().mean() >= least


def test_one_scheme_alone_is_that_scheme_among_others_of_every_kind():
    linear, H = make_linear(64, 192)
    factor = factor_hessian(H, largest_first=True)
    schemes = resolved(EVERY, 192)
    for among in solve_schemes(linear.weight, factor, schemes, block_size=50):
        [alone] = solve_schemes(linear.weight, factor, [among.scheme])
        assert (alone.codes.float() == among.codes.float()).double().mean() > 0.99
        assert alone.loss.item() == pytest.approx(among.loss.item(), rel=1e-3)
        assert alone.codes.dtype == among.codes.dtype


def test_the_loss_is_what_the_decoded_weight_loses_on_the_damped_hessian():
    # Second route: GPTQ's losses add up to half the quadratic form of the change, by the algebra of its updates.
    linear, H = make_linear(24, 96)
    damped = (H + 1e-2 * H.diagonal().mean() * torch.eye(96)).double()
    for made in solve_schemes(linear.weight, factor_hessian(H, largest_first=True), resolved(EVERY[:-1], 96)):
        if made.grid.global_scale is None:
            change = (unpack(made.scheme, pack(made), torch.float32) - linear.weight.detach()).double()
            expected = torch.einsum("rc,cd,rd->", change, damped, change) / 2
            assert made.loss.item() == pytest.approx(expected.item(), rel=2e-3)


def test_more_bits_lose_less():
    linear, H = make_linear(64, 256)
    made = solve_schemes(linear.weight, factor_hessian(H, largest_first=True), resolved(WIDTHS, 256))
    losses = [one.loss.item() for one in made]
    assert losses == sorted(losses, reverse=True)


def test_linears_that_a_server_packs_share_their_scale_of_scales():
    linear, H = make_linear(16, 64)
    factor, [scheme] = factor_hessian(H, largest_first=True), resolved(["NVFP4A16"], 64)
    [own] = solve_schemes(linear.weight, factor, [scheme])
    largest = 4 * linear.weight.abs().max()
    [shared] = solve_schemes(linear.weight, factor, [scheme], largest=largest)
    assert own.grid.global_scale.item() == pytest.approx(4 * shared.grid.global_scale.item(), rel=1e-5)
    assert shared.grid.global_scale.item() == pytest.approx(448 * 6 / largest.item(), rel=1e-5)


def test_neither_weight_nor_hessian_is_changed():
    linear, H = make_linear(8, 64, dead=(5,))
    weight, hessian = linear.weight.detach().clone(), H.clone()
    solve_schemes(linear.weight, factor_hessian(H, largest_first=True), resolved(EVERY, 64))
    assert torch.equal(linear.weight, weight)
    assert torch.equal(H, hessian)


def test_a_hessian_without_an_inverse_rounds_to_nearest_as_the_toolkit_does():
    linear, _ = make_linear(8, 64)
    H = -torch.eye(64)
    factor = factor_hessian(H, largest_first=True)
    assert not factor.invertible
    [scheme] = resolved(["W4A16"], 64)
    [made] = solve_schemes(linear.weight, factor, [scheme])
    _, codes, _, rounded = toolkit(linear.weight.detach(), H, scheme)
    assert rounded
    assert torch.equal(made.codes.float(), codes.float())


def test_a_hessian_of_another_width_is_refused():
    linear, _ = make_linear(4, 64)
    with pytest.raises(LevelsError, match="a linear of 64 inputs needs a Hessian of 64 columns, got 5"):
        solve_schemes(linear.weight, factor_hessian(torch.eye(5)), resolved(["W4A16"], 64))
