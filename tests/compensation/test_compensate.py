"""Corrections folded into weights against the same corrections applied to states, on every kind of block."""

from dataclasses import replace

import pytest
import torch
from tiny import tiny_model

from unicuco_plugin.compensation import compensate as compensating
from unicuco_plugin.compensation.compensate import compensate
from unicuco_plugin.compensation.cut import Correction
from unicuco_plugin.compensation.dense_states import DenseStates
from unicuco_plugin.compensation.methods import METHODS, Compensation
from unicuco_plugin.compensation.projection import find_projection
from unicuco_plugin.errors import CalibrationError, UnsupportedModelError
from unicuco_plugin.models.blocks.bypass import bypassed
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.objectives.head import DivergenceHead

GONE = (1, 3, 4)
WINDOWS = torch.randint(4, 128, (16, 32), generator=torch.Generator().manual_seed(0))


def states_of(family):
    runner = BlockRunner(find_decoder(tiny_model(family)), WINDOWS.shape[1])
    return DenseStates(runner, WINDOWS), DivergenceHead(runner).divergences


@torch.no_grad()
def final_states(model, gone=GONE):
    """What leaves the last block of the whole model, the way Transformers runs it."""
    decoder, found = find_decoder(model), []
    hook = decoder.blocks[-1].register_forward_hook(
        lambda _, __, out: found.append(out if isinstance(out, torch.Tensor) else out[0])
    )
    with bypassed(decoder, gone):
        logits = model(WINDOWS, use_cache=False).logits
    hook.remove()
    return found[-1], logits


@torch.no_grad()
def with_hooks(model, dense, done):
    """The same where corrections are added to the states, and no weight is changed."""
    decoder, hooks, given = find_decoder(model), [], {}
    for name, changes in done.changes.items():
        linear = model.get_submodule(name)
        index = next(i for i, block in enumerate(decoder.block_names) if name.startswith(f"{block}."))
        change = {key: value - getattr(linear, key) for key, value in changes.items()}
        s = find_projection(dense.runner, index, 32).scale
        hooks.append(linear.register_forward_pre_hook(lambda _, args, name=name: given.update({name: args[0]})))

        def correct(_, __, out, name=name, change=change, s=s):
            states = out if isinstance(out, torch.Tensor) else out[0]
            more = torch.nn.functional.linear(given[name], change["weight"], change.get("bias"))
            moved = states + s * more.view_as(states)
            return moved if isinstance(out, torch.Tensor) else (moved, *out[1:])

        hooks.append(decoder.blocks[index].register_forward_hook(correct))
    for index, gain in done.gains.items():

        def grow(_, __, out, gain=gain):
            return out * gain if isinstance(out, torch.Tensor) else (out[0] * gain, *out[1:])

        hooks.append(decoder.blocks[index].register_forward_hook(grow))
    found = final_states(model)
    for hook in hooks:
        hook.remove()
    return found


# Parallel halves, biases, scaled residuals, a fused gate, an MLP that is no module, convolutions, tied heads and not.
FOLDED = ["llama", "granite", "gpt_neox", "phi3", "opt", "lfm2", "starcoder2", "cohere2"]


@pytest.mark.parametrize(
    ("family", "method"),
    [
        (family, method)
        for family in FOLDED
        for method in ("linear", "ridge", "scale")
        if (family, method) != ("opt", "scale")  # refused, as below
    ],
)
def test_a_folded_model_is_the_one_whose_states_are_corrected(family, method):
    dense, _ = states_of(family)
    decoder = dense.runner.decoder
    before = {name: tensor.clone() for name, tensor in decoder.model.state_dict().items()}
    done = compensate(dense, GONE, METHODS[method])
    assert done.corrected == [0, 2]
    expected = with_hooks(decoder.model, dense, done)
    plain = final_states(decoder.model)
    restore = done.fold(decoder, GONE)
    states, logits = final_states(decoder.model)
    # A factor passes a norm by but for what the norm adds to the variance.
    within = 1e-3 if method == "scale" else 1e-5
    assert (states - expected[0]).norm() < within * expected[0].norm()
    assert (logits - expected[1]).norm() < within * expected[1].norm()
    assert (states - plain[0]).abs().max() > 0.01
    restore()
    assert all(torch.equal(tensor, before[name]) for name, tensor in decoder.model.state_dict().items())


def test_what_is_said_of_held_out_windows_is_what_the_folded_model_gives():
    dense, divergences = states_of("qwen2")
    done = compensate(dense, GONE, METHODS["ridge"], divergences)
    decoder = dense.runner.decoder
    held = WINDOWS[::4]
    with torch.no_grad():
        p = decoder.model(held, use_cache=False).logits.log_softmax(-1).double()
        done.fold(decoder, GONE)
        with bypassed(decoder, GONE):
            q = decoder.model(held, use_cache=False).logits.log_softmax(-1).double()
    assert done.after == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
    assert done.after < done.before
    assert done.tokens == WINDOWS.numel()


def worse_at(place):
    """A method that is right but for one cut, where it does harm."""
    calls = []

    def solve(cut):
        calls.append(cut)
        change = METHODS["ridge"].solve(cut).change
        return Correction(-30.0 * change if len(calls) == place else change)

    return replace(METHODS["ridge"], solve=solve)


@pytest.mark.parametrize(("place", "left"), [(1, 0), (2, 2)])
def test_a_correction_that_raises_the_divergence_is_left_out_and_the_reason_said(place, left):
    dense, divergences = states_of("llama")
    done = compensate(dense, GONE, worse_at(place), divergences)
    assert list(done.left_out) == [left] and done.corrected == [2 - left]
    assert done.left_out[left].endswith("nats per token with it")
    assert done.after < done.before
    assert len(done.changes) == 1


def test_nothing_is_changed_where_every_correction_does_harm():
    dense, divergences = states_of("llama")
    harm = Compensation(lambda cut: Correction(torch.full_like(cut.weight, 9.0)))
    done = compensate(dense, GONE, harm, divergences)
    assert not done.changes and done.after == done.before and list(done.left_out) == [0, 2]


def test_a_cut_at_the_beginning_has_nothing_to_fold_into():
    dense, divergences = states_of("llama")
    done = compensate(dense, (0, 1, 4), METHODS["ridge"], divergences)
    assert done.left_out[-1] == "no block comes before it"
    assert done.corrected == [3]


def test_a_cut_at_the_end_aims_at_what_leaves_the_last_block():
    dense, divergences = states_of("llama")
    done = compensate(dense, (5,), METHODS["ridge"], divergences)
    assert done.corrected == [4] and done.after < done.before


@pytest.mark.parametrize("keep", [False, True])
def test_states_that_are_kept_or_not_give_the_same_corrections(keep):
    runner = BlockRunner(find_decoder(tiny_model("llama")), WINDOWS.shape[1])
    divergences = DivergenceHead(runner).divergences
    one = compensate(DenseStates(runner, WINDOWS, keep=keep), GONE, METHODS["ridge"], divergences)
    other = compensate(DenseStates(runner, WINDOWS), GONE, METHODS["ridge"], divergences)
    assert one.after == other.after and one.before == other.before
    kept = DenseStates(runner, WINDOWS, keep=True)
    compensate(kept, GONE, METHODS["linear"])
    assert compensate(kept, GONE, METHODS["ridge"], divergences).after == other.after


@pytest.mark.parametrize("method", ["linear", "ridge"])
@pytest.mark.parametrize("family", ["gemma2", "gemma3", "olmo2", "qwen3_moe", "qwen2_moe", "gpt2"])
def test_what_nothing_can_be_folded_into_is_refused(family, method):
    dense, divergences = states_of(family)
    with pytest.raises(
        UnsupportedModelError, match=r"0: no linear's output is added to the states as it is \("
    ) as error:
        compensate(dense, GONE, METHODS[method], divergences)
    assert len(str(error.value)) <= 300


@pytest.mark.parametrize(
    ("family", "reason"),
    [("gemma2", "states do not follow"), ("opt", "states do not follow"), ("bloom", "expected one norm")],
)
def test_a_factor_that_states_do_not_follow_is_refused(family, reason):
    dense, divergences = states_of(family)
    with pytest.raises(UnsupportedModelError, match=reason):
        compensate(dense, GONE, METHODS["scale"], divergences)


@pytest.mark.parametrize(("family", "scale"), [("llama", 1.0), ("granite", 0.5)])
def test_the_factor_of_the_residual_is_found(family, scale):
    dense, _ = states_of(family)
    found = find_projection(dense.runner, 2, 32)
    assert found.name == "model.layers.2.mlp.down_proj"
    assert found.scale == pytest.approx(scale, rel=1e-4)


def test_one_window_is_too_few():
    runner = BlockRunner(find_decoder(tiny_model("llama")), WINDOWS.shape[1])
    with pytest.raises(CalibrationError, match=r"^compensation needs at least 2 windows, one of them held out, got 1$"):
        DenseStates(runner, WINDOWS[:1])


@pytest.mark.parametrize("method", ["ridge", "scale"])
def test_models_in_bfloat16_are_corrected_as_in_float32(method):
    model = tiny_model("llama").to(torch.bfloat16)
    dense = DenseStates(BlockRunner(find_decoder(model), WINDOWS.shape[1]), WINDOWS)
    done = compensate(dense, GONE, METHODS[method])
    assert done.corrected == [0, 2]
    exact, _ = states_of("llama")
    expected = compensate(exact, GONE, METHODS[method])
    for index, gain in expected.gains.items():
        assert done.gains[index] == pytest.approx(gain, rel=0.02)
    for name, values in expected.changes.items():
        found = done.changes[name]["weight"].float()
        assert (found - values["weight"]).norm() < 0.1 * values["weight"].norm()


@pytest.mark.parametrize("family", ["gemma3", "opt", "gpt2"])
def test_what_refuses_a_factor_refuses_it_in_bfloat16_too(family):
    model = tiny_model(family).to(torch.bfloat16)
    dense = DenseStates(BlockRunner(find_decoder(model), WINDOWS.shape[1]), WINDOWS)
    with pytest.raises(UnsupportedModelError, match="no factor can be folded in"):
        compensate(dense, GONE, METHODS["scale"])


def test_a_correction_that_is_not_finite_is_left_out():
    dense, divergences = states_of("llama")
    wild = Compensation(lambda cut: Correction(torch.full_like(cut.weight, float("inf"))))
    done = compensate(dense, GONE, wild, divergences)
    assert done.left_out == {0: "it is not finite in torch.float32", 2: "it is not finite in torch.float32"}
    assert not done.changes


def test_weights_are_put_back_where_folding_stops_half_way(monkeypatch):
    dense, _ = states_of("llama")
    done = compensate(dense, GONE, METHODS["ridge"])
    decoder = dense.runner.decoder
    before = {name: tensor.clone() for name, tensor in decoder.model.state_dict().items()}
    write, calls = compensating.write_tensor, []

    def full(module, name, values):
        calls.append(name)
        if len(calls) == 2:
            raise OSError("no space left on device")
        write(module, name, values)

    monkeypatch.setattr(compensating, "write_tensor", full)
    with pytest.raises(OSError, match="no space"):
        done.fold(decoder, GONE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in decoder.model.state_dict().items())
