"""Sub-layers that add nothing: silenced by a hook, or for good by a zero output projection."""

import pytest
import torch
from tiny import FAMILIES, tiny_model

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.sublayers import (
    check_silence,
    silenced,
    sublayer_names,
    sublayer_params,
    zero_outputs,
)

TOKENS = torch.arange(3, 23)[None]
SPLIT = sorted(FAMILIES.keys() - {"opt"})


def chosen_names(decoder):
    attentions, mlps = sublayer_names(decoder)
    return [attentions[1], mlps[0], attentions[2], mlps[2]]


def test_names_are_those_of_the_two_halves():
    attentions, mlps = sublayer_names(find_decoder(tiny_model("llama")))
    assert attentions[2] == "model.layers.2.self_attn"
    assert mlps[0] == "model.layers.0.mlp"


def test_a_family_without_such_modules_is_refused():
    with pytest.raises(
        UnsupportedModelError, match=r"0: has no module as its mlp, which the spaces sublayer and structured"
    ):
        sublayer_names(find_decoder(tiny_model("opt", blocks=2)))


def test_norms_are_of_neither_half():
    decoder = find_decoder(tiny_model("llama"))
    sizes = sublayer_params(decoder)
    assert list(sizes)[:3] == ["model.layers.0.self_attn", "model.layers.0.mlp", "model.layers.1.self_attn"]
    block = sum(parameter.numel() for parameter in decoder.blocks[0].parameters())
    assert sizes["model.layers.0.self_attn"] + sizes["model.layers.0.mlp"] == block - 2 * 32


@pytest.mark.parametrize("family", SPLIT)
@torch.no_grad()
def test_a_zero_output_projection_silences_and_is_put_back(family):
    model = tiny_model(family, blocks=3)
    decoder = find_decoder(model)
    dense = model(TOKENS, use_cache=False).logits
    with silenced(decoder, chosen_names(decoder)):
        expected = model(TOKENS, use_cache=False).logits
    restore = zero_outputs(decoder, chosen_names(decoder))
    torch.testing.assert_close(model(TOKENS, use_cache=False).logits, expected)
    assert not torch.allclose(expected, dense)
    restore()
    restore()
    assert torch.equal(model(TOKENS, use_cache=False).logits, dense)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda mlp: setattr(mlp, "renamed", mlp.__dict__["_modules"].pop("down_proj")), "has no output projection na"),
        (lambda mlp: mlp.register_forward_hook(lambda _, __, out: out + 1.0), "gives more than zeros without its outp"),
    ],
    ids=["unknown name", "more than the projection"],
)
def test_a_half_that_cannot_be_silenced_is_refused_and_the_model_left_as_it_was(damage, message):
    model = tiny_model("llama", blocks=3)
    decoder = find_decoder(model)
    damage(model.model.layers[1].mlp)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(UnsupportedModelError, match=rf"^model\.layers\.1\.mlp: {message}"):
        zero_outputs(decoder, ["model.layers.0.self_attn", "model.layers.1.mlp"])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("family", SPLIT)
def test_halves_that_can_be_silenced_pass_and_the_model_is_as_it_was(family):
    model = tiny_model(family, blocks=3)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    check_silence(find_decoder(model))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("mpt", "transformer.blocks.0.ffn"),
        ("bloom", "transformer.h.0.self_attention"),
        ("bloom", "transformer.h.1.mlp"),
    ],
)
def test_a_half_that_adds_the_states_itself_is_refused_in_training_as_in_pruning(family, name):
    model = tiny_model(family, blocks=2)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    decoder = find_decoder(model)
    message = "gives more than zeros without its output projection; take the space depth$"
    with pytest.raises(UnsupportedModelError, match=rf"^transformer\.\S+: {message}"):
        check_silence(decoder)
    with pytest.raises(UnsupportedModelError, match=f"^{name}: {message}"):
        zero_outputs(decoder, [name])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("family", "has"), [("falcon_h1", "has self_attn beside mamba"), ("nemotron_h", "has no module")]
)
def test_blocks_without_two_halves_are_refused_for_what_they_have(family, has):
    with pytest.raises(UnsupportedModelError, match=rf"0: {has} as its attention, which the spaces"):
        sublayer_names(find_decoder(tiny_model(family, blocks=2)))
