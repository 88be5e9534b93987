"""Gradients through models whose parameters ask for none."""

import pytest
import torch
from tiny import tiny_model
from zoo.families import build

from unicuco_plugin.models.tensors.gradients import gradients_inside

IDS = torch.arange(3, 19)[None]


@pytest.mark.parametrize("family", ["llama", "ctrl", "cpmant", "gemma3n_text"])
def test_gradients_reach_the_blocks_and_leave_no_trace(family):
    # CTRL scales embeddings in place, CPM-Ant takes no embeddings, Gemma 3n reads the ids again.
    model = build(family)
    plain = model(IDS, use_cache=False).logits
    linear = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))
    seen = []
    with gradients_inside(model):
        hook = linear.register_forward_hook(lambda _m, _i, output: output.register_hook(seen.append) and None)
        logits = model(IDS, use_cache=False).logits
        logits.sum().backward()
        hook.remove()
    assert torch.equal(logits, plain)
    assert len(seen) == 1 and bool(seen[0].any())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_parameters_ask_again_after_a_failure():
    model = tiny_model("llama", blocks=1)
    with pytest.raises(ZeroDivisionError), gradients_inside(model):
        raise ZeroDivisionError
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not model.get_input_embeddings()._forward_hooks
