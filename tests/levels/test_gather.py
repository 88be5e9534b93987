"""Hessians and states of one block, against a plain forward of the whole model with the toolkit's own sums."""

import pytest
import torch
from llmcompressor.modifiers.pruning.sparsegpt.sgpt_sparsify import accumulate_hessian, make_empty_hessian
from tiny import tiny_mamba, tiny_model, unfuse_experts
from torch import nn

from unicuco_plugin.errors import CalibrationError
from unicuco_plugin.levels.gather import Hessians, _accumulate, gather_hessians, mean_states
from unicuco_plugin.levels.stitch import swapped
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.runner import BlockRunner

FAMILIES = ["llama", "qwen3", "gemma3", "phi3", "gpt_neox", "opt"]


def whole_model(model, linears, windows, batch):
    """The toolkit's Hessians of linears, from the model's own forward."""
    sums = {name: (make_empty_hessian(linear), 0) for name, linear in linears.items()}

    def keep(name):
        def hook(module, args, _output):
            sums[name] = accumulate_hessian(args[0], module, *sums[name])

        return hook

    hooks = [linear.register_forward_hook(keep(name)) for name, linear in linears.items()]
    with torch.inference_mode():
        for part in windows.split(batch):
            model(part, use_cache=False)
    for hook in hooks:
        hook.remove()
    return sums


@pytest.mark.parametrize("family", FAMILIES)
def test_hessians_are_those_of_the_whole_models_forward(family, windows):
    model = tiny_model(family, blocks=2)
    decoder = find_decoder(model)
    runner = BlockRunner(decoder, windows.shape[1])
    states = runner.run(0, runner.embed(windows))
    found, leaving = gather_hessians(runner, 1, states, 4)
    expected = whole_model(model, decoder.linears(1), windows, 4)
    assert found.leaders.keys() == expected.keys()
    for name, (H, samples) in expected.items():
        mine = found.sums[found.leaders[name]]
        torch.testing.assert_close(mine[0], H, rtol=1e-4, atol=1e-5 * H.abs().max().item())
        assert mine[1] == samples
    torch.testing.assert_close(leaving, runner.run(1, states), rtol=1e-5, atol=1e-5)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("family", "groups"),
    [
        ("llama", [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]),
        ("phi3", [["qkv_proj"], ["o_proj"], ["gate_up_proj"], ["down_proj"]]),
    ],
)
def test_linears_with_one_input_share_one_hessian(family, groups, windows):
    decoder = find_decoder(tiny_model(family, blocks=1))
    runner = BlockRunner(decoder, windows.shape[1])
    found, _ = gather_hessians(runner, 0, runner.embed(windows), 4)
    sharing = [[name for name, leader in found.leaders.items() if leader == first] for first in found.sums]
    assert [[name.rpartition(".")[2] for name in group] for group in sharing] == groups


def test_an_expert_that_no_token_chose_is_refused(windows):
    model = tiny_model("qwen3_moe", blocks=1)
    unfuse_experts(model)
    mlp = model.model.layers[0].mlp

    def forward(states):
        for expert in mlp.experts[:3]:
            expert.down_proj(expert.gate_proj(states) * expert.up_proj(states))
        return states

    mlp.forward = forward
    runner = BlockRunner(find_decoder(model), windows.shape[1])
    message = (
        r"no calibration token reached model.layers.0.mlp.experts.3.gate_proj \(3 linears in all\); give more windows"
    )
    with pytest.raises(CalibrationError, match=message):
        gather_hessians(runner, 0, runner.embed(windows), 4)


def test_a_few_weights_that_are_never_called_as_a_module_are_left_out(windows):
    decoder = find_decoder(tiny_mamba())
    runner = BlockRunner(decoder, windows.shape[1])
    found, _ = gather_hessians(runner, 0, runner.embed(windows), 4)
    assert decoder.linears(0).keys() - found.leaders.keys() == {"backbone.layers.0.mixer.dt_proj"}


def test_inputs_of_four_dimensions_count_as_those_of_three(decoder):
    linear = nn.Linear(6, 3)
    states = torch.randn(2, 4, 5, 6)
    found, flat = Hessians(), Hessians()
    _accumulate(found, {}, "a", linear, (states,))
    _accumulate(flat, {}, "a", linear, (states.flatten(1, 2),))
    torch.testing.assert_close(found.sums["a"][0], flat.sums["a"][0])
    assert found.sums["a"][1] == flat.sums["a"][1] == 2


def test_the_mean_of_states_is_weighted_by_what_levels_keep(windows, decoder):
    runner = BlockRunner(decoder, windows.shape[1])
    states = runner.embed(windows)
    linears = decoder.linears(0)
    before = {name: linear.weight.data for name, linear in linears.items()}
    weights = [{name: weight * scale for name, weight in before.items()} for scale in (0.9, 0.5)]
    mean = mean_states(runner, 0, states, (0.75, 0.25), lambda level: weights[level - 1], batch_windows=4)
    outputs = []
    for level in weights:
        with swapped(linears, level):
            outputs.append(runner.run(0, states).double())
    expected = (0.75 * outputs[0] + 0.25 * outputs[1]) / 1.0
    assert mean.dtype == states.dtype
    torch.testing.assert_close(mean.double(), expected, rtol=2e-2, atol=2e-2)
    assert all(linears[name].weight.data_ptr() == weight.data_ptr() for name, weight in before.items())


def test_dense_weights_are_back_after_an_exception(windows, decoder):
    runner = BlockRunner(decoder, windows.shape[1])
    states = runner.embed(windows)
    linears = decoder.linears(0)
    before = {name: linear.weight.data_ptr() for name, linear in linears.items()}
    weights = {name: linear.weight.data.clone() for name, linear in linears.items()}

    def weights_of(level):
        if level == 2:
            raise ZeroDivisionError
        return weights

    with pytest.raises(ZeroDivisionError):
        mean_states(runner, 0, states, (0.2, 0.4), weights_of, batch_windows=4)
    with pytest.raises(RuntimeError):
        mean_states(runner, 0, states[:, :, :5], (0.2, 0.4), lambda _: weights, batch_windows=4)
    assert {name: linear.weight.data_ptr() for name, linear in linears.items()} == before
