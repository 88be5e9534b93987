"""Which linears a server packs, over families that differ in it; vLLM's own mappings are the second route."""

import pytest
import torch
from tiny import tiny_model
from zoo.families import build

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.fused_units import fused_units

QKV, GATED = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
# vLLM 0.32's ``packed_modules_mapping`` by family, the own names of what it packs; experts apart.
PACKED = {
    "llama": {QKV, GATED},
    "qwen2": {QKV, GATED},
    "qwen3": {QKV, GATED},
    "gemma3_text": {QKV, GATED},
    "gemma4_text": {QKV, GATED},
    "phi3": set(),
    "gpt_neox": set(),
    "opt": {QKV},
    "nemotron": {QKV},
    "phi": {QKV},
    "afmoe": {QKV, GATED},
    "laguna": {QKV, GATED},
    "lfm2": {QKV, ("w1", "w3")},
    "deepseek_v2": {("q_a_proj", "kv_a_proj_with_mqa"), GATED},
    "deepseek_v2-no_q_lora": {GATED},
    "qwen3_5_text": {QKV, GATED, ("in_proj_qkv", "in_proj_z"), ("in_proj_b", "in_proj_a")},
    "qwen3_next": {QKV, GATED},
    "olmo_hybrid": {QKV, GATED, (*QKV, "g_proj")},
}


def leaves(unit):
    return tuple(name.rpartition(".")[2] for name in unit.linears)


@pytest.mark.parametrize("family", PACKED)
def test_units_are_what_vllm_packs_of_a_family(family):
    units = fused_units(build(family))
    packed = {frozenset(leaves(unit)) for unit in units if len(unit.linears) > 1 and not unit.name.endswith("experts")}
    assert packed == {frozenset(names) for names in PACKED[family]}


def test_every_linear_is_in_one_unit_and_the_order_is_the_models():
    model = tiny_model("llama", blocks=2)
    units = fused_units(model)
    names = [name for unit in units for name in unit.linears]
    assert sorted(names) == sorted(n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear))
    assert [unit.name for unit in units][:4] == [
        "model.layers.0.self_attn.q_proj+k_proj+v_proj",
        "model.layers.0.self_attn.o_proj",
        "model.layers.0.mlp.gate_proj+up_proj",
        "model.layers.0.mlp.down_proj",
    ]
    assert units[-1].linears == ("lm_head",)


def test_all_experts_of_a_block_are_one_unit_under_the_names_that_the_toolkit_gives_them():
    [first, second] = [unit for unit in fused_units(tiny_model("qwen3_moe", blocks=2)) if "experts" in unit.name]
    assert first.name == "model.layers.0.mlp.experts"
    assert second.name == "model.layers.1.mlp.experts"
    assert set(first.linears) == {
        f"model.layers.0.mlp.experts.{expert}.{leaf}" for expert in range(4) for leaf in (*GATED, "down_proj")
    }


def test_it_is_seen_and_not_guessed_from_names():
    model = tiny_model("llama", blocks=1)
    kind = type("Renamed", (type(model),), {"__init__": _renamed})
    renamed = kind(model.config)
    assert ("a", "b", "c") in {leaves(unit) for unit in fused_units(renamed)}


def _renamed(self, config):
    """Llama with other names for queries, keys and values, and a forward that uses them."""
    super(type(self), self).__init__(config)
    for block in self.model.layers:
        attention = block.self_attn
        for new, old in zip("abc", QKV, strict=True):
            linear = getattr(attention, old)
            delattr(attention, old)
            attention.add_module(new, linear)
        olds = {old: property(lambda me, new=new: me._modules[new]) for new, old in zip("abc", QKV, strict=True)}
        attention.__class__ = type("Other", (type(attention),), olds)


def test_the_model_is_neither_run_nor_changed():
    model = tiny_model("llama", blocks=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.model.layers[0].register_forward_pre_hook(lambda *_: pytest.fail("was run"))
    attention = model.config._attn_implementation
    fused_units(model)
    assert model.config._attn_implementation == attention
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.model.layers[0].mlp._forward_pre_hooks


def test_a_family_that_looks_at_its_numbers_is_refused_with_the_reason():
    with pytest.raises(UnsupportedModelError, match="JetMoeForCausalLM: cannot be run without weights, so it is not"):
        fused_units(build("jetmoe"))
