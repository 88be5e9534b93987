"""What attentions and MLPs of each family are made of."""

import pytest
import torch
from tiny import tiny_model
from zoo.families import build

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.decoder import find_decoder
from unicuco_plugin.models.parts import find_parts

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


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("phi3", "Phi3Attention has no linear q_proj"),
        ("gpt_neox", "GPTNeoXAttention has no linear q_proj"),
        ("qwen3_moe", "Qwen3MoeSparseMoeBlock has no linear gate_proj"),
        ("olmo2", "cannot be split into head groups, since q_norm.weight spans them"),
        ("opt", "space sublayer needs each mlp as one module"),
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
