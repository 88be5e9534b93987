"""Modules without parts against the whole model with zeroed columns, in every family that has parts."""

import pytest
import torch
from tiny import VOCABULARY, tiny_model

from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.models.parts.reduction import reduced

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "smollm3", "granite", "cohere2"]
WINDOWS = torch.randint(3, VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(0))
KEPT = {
    "model.layers.0.self_attn": (1,),
    "model.layers.0.mlp": tuple(range(0, 48, 3)),
    "model.layers.1.self_attn": (),
    "model.layers.2.mlp": (),
}
BIASES = {name: torch.randn(32, generator=torch.Generator().manual_seed(1)) for name in list(KEPT)[:3]}


def zeroed(model, kept):
    """The same by hand: columns of the output projections zeroed, biases added to what they give."""
    for name, indices in kept.kept.items():
        part = find_parts(find_decoder(model))[name]
        output = model.get_submodule(part.output)
        mask = torch.zeros(part.count)
        mask[list(indices)] = 1.0
        output.weight.data *= mask.repeat_interleave(part.width)
        if name in kept.biases:
            bias = kept.biases[name] if output.bias is None else output.bias.data + kept.biases[name]
            output.bias = torch.nn.Parameter(bias)
    return model


def logits(model):
    with torch.no_grad():
        return model(WINDOWS, use_cache=False).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reduced_model_gives_what_the_whole_one_with_zeroed_columns_gives(family):
    model = tiny_model(family, blocks=3)
    decoder, kept = find_decoder(model), KeptParts(KEPT, BIASES)
    kept.check(decoder)
    dense = logits(model)
    with reduced(decoder, kept, find_parts(decoder).values()):
        found = logits(model)
    torch.testing.assert_close(logits(model), dense, rtol=0, atol=0)
    torch.testing.assert_close(found, logits(zeroed(tiny_model(family, blocks=3), kept)), rtol=1e-4, atol=1e-4)
    assert (found - dense).abs().max() > 0.1


def test_the_model_is_as_it_was_after_an_error():
    model = tiny_model("llama", blocks=3)
    decoder = find_decoder(model)
    before = {name: (id(p), tuple(p.shape)) for name, p in model.named_parameters()}
    change = reduced(decoder, KeptParts(KEPT, BIASES), find_parts(decoder).values())
    with pytest.raises(RuntimeError, match=r"^stop$"), change:
        raise RuntimeError("stop")
    assert {name: (id(p), tuple(p.shape)) for name, p in model.named_parameters()} == before
    assert not any(module._forward_hooks or "forward" in vars(module) for module in model.modules())
