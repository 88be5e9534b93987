"""Statistics of channels against a plain forward and autograd on masks."""

import pytest
import torch
from tiny import VOCABULARY, tiny_model
from torch.nn.functional import cross_entropy

from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.parts.channels import measure_channels, measure_effects
from unicuco_plugin.models.parts.parts import find_parts

WINDOWS = torch.randint(3, VOCABULARY, (5, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def decoder():
    return find_decoder(tiny_model("llama", blocks=3))


def test_moments_are_those_of_a_plain_forward_however_windows_are_batched(decoder):
    inputs = {}
    hooks = [
        decoder.model.get_submodule(part.output).register_forward_pre_hook(
            lambda _, args, name=name: inputs.update({name: args[0].flatten(0, -2).double()})
        )
        for name, part in find_parts(decoder).items()
    ]
    with torch.no_grad():
        decoder.model(WINDOWS, use_cache=False)
    for hook in hooks:
        hook.remove()
    for batch in (2, 16):
        found = measure_channels(decoder, WINDOWS, batch_windows=batch)
        assert list(found) == list(inputs)
        for name, x in inputs.items():
            torch.testing.assert_close(found[name].mean, x.mean(0).float(), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found[name].variance, x.var(0, correction=0).float(), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found[name].norm, x.norm(dim=0).float(), rtol=1e-4, atol=1e-4)
            assert found[name].effect is None


def test_effects_are_the_gradients_of_masks(decoder):
    name, part = next(iter(find_parts(decoder).items()))
    found = measure_effects(decoder, WINDOWS, measure_channels(decoder, WINDOWS))[name].effect
    mask = torch.ones(part.count * part.width, requires_grad=True)
    hook = decoder.model.get_submodule(part.output).register_forward_pre_hook(lambda _, args: (args[0] * mask,))
    total = torch.zeros_like(mask)
    for window in WINDOWS:
        logits = decoder.model(window[None], use_cache=False).logits[0, :-1]
        (gradient,) = torch.autograd.grad(cross_entropy(logits, window[1:], reduction="sum"), mask)
        total += gradient.abs()
    hook.remove()
    torch.testing.assert_close(found, total / len(WINDOWS), rtol=1e-3, atol=1e-4)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in decoder.model.parameters())
    assert not any(module._forward_pre_hooks for module in decoder.model.modules())
