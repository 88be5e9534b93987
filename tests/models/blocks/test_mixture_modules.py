"""Mixtures of experts are found by what they hold."""

import pytest
import torch
from tiny import tiny_model
from tiny_moe import MIXTURES, tiny_mixture

from unicuco_plugin.levels.experts import split_experts
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.mixtures import find_fused, find_stacks

# By family, what in its blocks chooses or weighs experts and is a linear.
ROUTERS = {
    "phimoe": {"mlp.router"},
    "hunyuan": {"mlp.gate.wg"},
    "jamba": {"feed_forward.router"},
    "qwen2_moe": {"mlp.shared_expert_gate"},
    "qwen3_next": {"mlp.shared_expert_gate"},
    "qwen3_5_moe": {"mlp.shared_expert_gate"},
}


@pytest.mark.parametrize("apart", [False, True], ids=["fused", "apart"])
@pytest.mark.parametrize("family", MIXTURES)
def test_routers_are_no_linears_to_prune_and_everything_else_is(family, apart):
    model = tiny_mixture(family)
    if apart:
        split_experts(model)
    decoder = find_decoder(model)
    for index, block in enumerate(decoder.blocks):
        prefix = decoder.block_names[index]
        every = {name for name, module in block.named_modules() if isinstance(module, torch.nn.Linear)}
        left = every - {name.removeprefix(f"{prefix}.") for name in decoder.linears(index)}
        assert left <= ROUTERS.get(family, set())
        if any("experts" in name for name, _ in block.named_modules()):
            assert left == ROUTERS.get(family, set())


@pytest.mark.parametrize("family", ["llama", "mamba", "rwkv", "bamba"])
def test_models_without_experts_have_none(family):
    model = tiny_model(family)
    assert not find_fused(model)
    assert not find_stacks(model)
