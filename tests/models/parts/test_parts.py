"""What attentions and MLPs of each family are made of."""

import pytest
import torch
from tiny import tiny_model
from zoo.families import build

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.parts.parts import find_parts, leaving_blocks

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "smollm3", "granite"]


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_own_all_weights_of_a_module_but_norms_and_the_output_bias(family):
    decoder = find_decoder(tiny_model(family))
    parts = find_parts(decoder)
    assert [(p.kind, p.count, p.width) for p in parts.values()] == [("attention", 2, 16), ("mlp", 48, 1)] * 6
    for name, part in parts.items():
        module = decoder.model.get_submodule(name)
        shared = sum(p.numel() for inner, p in module.named_parameters() if "norm" in inner)
        assert part.count * part.params + shared == sum(p.numel() for p in module.parameters())
        assert decoder.model.get_submodule(part.output).in_features == part.count * part.width


def test_modules_of_a_hybrid_that_have_no_parts_stay_whole():
    decoder = find_decoder(tiny_model("lfm2", blocks=3))
    parts = find_parts(decoder)
    assert {name.removeprefix("model.layers."): (p.count, p.width, dict(p.rows)) for name, p in parts.items()} == {
        "0.feed_forward": (48, 1, {"w1": 1, "w3": 1}),
        "1.feed_forward": (48, 1, {"w1": 1, "w3": 1}),
        "2.self_attn": (2, 16, {"q_proj": 16, "k_proj": 8, "v_proj": 8}),
        "2.feed_forward": (48, 1, {"w1": 1, "w3": 1}),
    }
    assert parts["model.layers.2.self_attn"].output == "model.layers.2.self_attn.out_proj"
    assert list(leaving_blocks(decoder, parts)) == ["model.layers.2"]


def test_queries_with_gates_beside_them_own_twice_the_rows():
    part = find_parts(find_decoder(tiny_model("qwen3_5", blocks=3)))["model.layers.2.self_attn"]
    assert (part.count, part.width, part.rows["q_proj"]) == (2, 16, 32)


def test_a_block_with_a_state_space_beside_its_attention_is_left_with_that():
    decoder = find_decoder(tiny_model("falcon_h1", blocks=2))
    parts = find_parts(decoder)
    assert len(parts) == 4
    assert leaving_blocks(decoder, parts) == {}


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("phi3", "Phi3Attention has no linear q_proj"),
        ("gpt_neox", "GPTNeoXAttention has no linear q_proj"),
        ("qwen3_moe", "Qwen3MoeSparseMoeBlock has no linear gate_proj"),
        ("olmo2", "cannot be split into head groups, since q_norm.weight spans them"),
        ("opt", "has no module as its mlp, which the spaces sublayer and structured need"),
    ],
)
def test_other_families_are_refused_with_the_reason(family, message):
    with pytest.raises(UnsupportedModelError, match=message):
        find_parts(find_decoder(tiny_model(family)))


def test_queries_that_form_no_groups_are_refused():
    decoder = find_decoder(tiny_model("llama"))
    decoder.blocks[0].self_attn.q_proj = torch.nn.Linear(32, 24)
    with pytest.raises(UnsupportedModelError, match="do not form groups"):
        find_parts(decoder)


@pytest.mark.parametrize("family", ["nemotron", "arcee", "apertus"])
def test_an_mlp_without_a_gate_is_made_of_neurons(family):
    model = build(family)
    mlps = [part for part in find_parts(find_decoder(model)).values() if part.kind == "mlp"]
    for part in mlps:
        module = model.get_submodule(part.name)
        assert part.params == 2 * model.config.hidden_size
        assert part.count == module.down_proj.in_features
