"""What is kept for a sequence, seen without weights, against the cache of the model that really runs."""

import pytest
import torch
from tiny import VOCABULARY, tiny_model
from tiny_moe import tiny_mixture

from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.caches import served_sizes

TOKENS = torch.randint(3, VOCABULARY, (1, 20), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "gpt_neox", "qwen3_moe", "falcon", "lfm2"])
def test_it_is_what_transformers_cache_holds(family):
    model = tiny_model(family)
    found = served_sizes(find_decoder(model))
    with torch.no_grad():
        layers = model(TOKENS, use_cache=True).past_key_values.layers
    kept = {entry.holder: entry for entry in found.layers}
    assert len(kept) == len(layers)
    for (holder, entry), layer in zip(kept.items(), layers, strict=True):
        assert model.get_submodule(holder)
        tensors = vars(layer)
        states = [*tensors.get("conv_states", {}).values(), *tensors.get("recurrent_states", {}).values()]
        assert entry.state == sum(state.numel() for state in states if state is not None)
        if entry.numbers:
            # A window's last place is for the token to come.
            tokens = min(TOKENS.shape[1], entry.window - 1) if entry.window else TOKENS.shape[1]
            assert entry.numbers * tokens == layer.keys.numel() + layer.values.numel()
    assert found.logits == VOCABULARY


def test_a_step_is_as_wide_as_the_states_and_the_linears_of_one_half():
    model = tiny_model("llama")
    config = model.config
    assert served_sizes(find_decoder(model)).widest == 2 * config.hidden_size + 3 * config.intermediate_size


def test_of_experts_those_count_that_a_token_goes_through():
    sparse, dense = (served_sizes(find_decoder(tiny_model(name))).widest for name in ("qwen3_moe", "qwen3"))
    config = tiny_model("qwen3_moe").config
    router = config.num_experts
    chosen = 3 * config.moe_intermediate_size * config.num_experts_per_tok
    assert sparse == 2 * config.hidden_size + chosen + router
    assert sparse < dense


def test_latent_attention_keeps_its_compressed_vector():
    model = tiny_mixture("deepseek_v3")
    layers = served_sizes(find_decoder(model)).layers
    assert {entry.numbers for entry in layers} == {model.config.kv_lora_rank + model.config.qk_rope_head_dim}


def test_a_family_with_a_cache_of_its_own_is_not_guessed():
    assert served_sizes(find_decoder(tiny_model("mamba"))) is None
