"""Squared gradient times squared change, against gradients of what is added to outputs."""

import pytest
import torch
from scheme_databases import WIDTHS, build_schemes
from torch.nn.functional import cross_entropy, linear

from unicuco_plugin.levels.stored import round_inputs
from unicuco_plugin.scores.output_changes import output_changes

SCHEMES = (*WIDTHS, "W8A8")


@pytest.fixture
def levels(decoder, tmp_path):
    return build_schemes(decoder.model, tmp_path / "levels", SCHEMES)


def added(decoder, name, window):
    """Inputs of a linear and the gradient of the loss with respect to a number added to each of its outputs."""
    layer, kept = decoder.all_linears()[name], {}

    def add(_, args, output):
        kept["x"] = args[0].detach()
        kept["eps"] = torch.zeros_like(output, requires_grad=True)
        return output + kept["eps"]

    hook = layer.register_forward_hook(add)
    logits = decoder.model(input_ids=window[None], use_cache=False).logits[0, :-1]
    hook.remove()
    loss = cross_entropy(logits.float(), window[1:], reduction="sum")
    return kept["x"], torch.autograd.grad(loss, kept["eps"])[0]


def test_scores_are_squared_gradients_times_squared_changes_of_outputs(decoder, levels, windows):
    names = [f"model.layers.{block}.{name}" for block, name in ((0, "self_attn.k_proj"), (3, "mlp.down_proj"))]
    found = output_changes(decoder, levels, dict.fromkeys(names, SCHEMES), windows)
    for name in names:
        layer = decoder.all_linears()[name]
        for scheme in SCHEMES:
            total = 0.0
            for window in windows:
                x, g = added(decoder, name, window)
                changed = linear(round_inputs(scheme, layer, x), levels.decode(name, scheme))
                total += (g * (changed - linear(x, layer.weight))).square().sum().item()
            assert found[name][scheme] == pytest.approx(total, rel=1e-3)
        eight, four, three = (found[name][scheme] for scheme in WIDTHS)
        assert 0.0 < eight < four < three
        assert found[name]["W8A8"] > 1.01 * eight


def test_the_model_is_left_as_it_was(decoder, levels, windows):
    before = {name: tensor.clone() for name, tensor in decoder.model.state_dict().items()}
    asked = [parameter.requires_grad for parameter in decoder.model.parameters()]
    output_changes(decoder, levels, {"model.layers.1.mlp.up_proj": WIDTHS}, windows[:1])
    assert all(torch.equal(before[name], tensor) for name, tensor in decoder.model.state_dict().items())
    assert [parameter.requires_grad for parameter in decoder.model.parameters()] == asked
    assert all(parameter.grad is None for parameter in decoder.model.parameters())
    assert not any(module._forward_hooks for module in decoder.model.modules())
