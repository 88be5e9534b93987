"""A shrunk model gives what the masked full model gives, and is really smaller."""

import pytest
import torch
from structured_parts import FAMILIES, A, M, masked_logits, mixed_parts, uniform_parts
from tiny import tiny_model

from unicuco_plugin.errors import StrategyError, UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.parts.formats import apply_parts
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import find_parts

pytestmark = pytest.mark.usefixtures("machine")

IDS = torch.randint(4, 128, (2, 24), generator=torch.Generator().manual_seed(1))
every_family = pytest.mark.parametrize("family", FAMILIES)
with_and_without = pytest.mark.parametrize("biases", [False, True], ids=["plain", "biases"])


@torch.no_grad()
def shrunk_and_expected(family, parts, change=lambda model: None):
    model = tiny_model(family)
    change(model)
    decoder = find_decoder(model)
    expected, sizes = masked_logits(decoder, parts, IDS), find_parts(decoder)
    before = model.num_parameters()
    apply_parts(model, parts)
    return model, expected, sizes, before


@every_family
@with_and_without
@torch.no_grad()
def test_logits_are_those_of_the_masked_model(family, biases):
    model, expected, _, _ = shrunk_and_expected(family, mixed_parts(biases=biases))
    assert type(model).__name__.startswith("Compact")
    assert len(model.model.layers) == (6 if biases else 5)
    torch.testing.assert_close(model(IDS, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)


@every_family
@torch.no_grad()
def test_one_size_for_all_blocks_stays_a_plain_model_of_the_family(family):
    model, expected, _, _ = shrunk_and_expected(family, uniform_parts(gone=2))
    assert type(model) is type(tiny_model(family))
    assert not model.config.is_heterogeneous
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (5, 32)
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (2, 1)
    torch.testing.assert_close(model(IDS, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "plain"), [("llama", True), ("smollm3", True), ("qwen3", False), ("qwen2", False)])
@torch.no_grad()
def test_biases_stay_plain_where_the_family_has_room_for_them(family, plain):
    model, expected, _, _ = shrunk_and_expected(family, uniform_parts(biases=True))
    assert type(model).__name__.startswith("Compact") != plain
    torch.testing.assert_close(model(IDS, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_sizes_that_the_family_refuses_become_a_compact_model():
    # 32 hidden units do not divide by 3 heads, which Llama's configuration holds only when it is read.
    import transformers as tf

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = tf.LlamaConfig(
            vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4,
        )  # fmt: skip
        model = tf.LlamaForCausalLM(config).eval()
    parts = KeptParts({A.format(0): (0, 2, 3), A.format(1): (0, 1, 2)})
    expected = masked_logits(find_decoder(model), parts, IDS)
    apply_parts(model, parts)
    assert model.config.is_heterogeneous
    torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@every_family
def test_exactly_the_removed_parts_leave_the_model(family):
    parts = mixed_parts(biases=False)
    model, _, sizes, before = shrunk_and_expected(family, parts)
    dense = dict(tiny_model(family).named_modules())
    gone = sum(
        (sizes[name].count - len(kept)) * sizes[name].params
        if kept
        else sum(p.numel() for p in dense[name].parameters())
        for name, kept in parts.kept.items()
    )
    norms = sum(
        p.numel() for n, p in dense["model.layers.4"].named_parameters() if "norm" in n and "self_attn" not in n
    )
    assert before - model.num_parameters() == gone + norms


def test_biases_of_every_linear_follow_their_heads():
    parts = KeptParts({A.format(3): (1,)})
    model, _, _, _ = shrunk_and_expected("qwen2", parts)
    before, after = tiny_model("qwen2").model.layers[3].self_attn, model.model.layers[3].self_attn
    assert torch.equal(after.q_proj.bias, before.q_proj.bias[16:])
    assert torch.equal(after.k_proj.weight, before.k_proj.weight[8:])
    assert torch.equal(after.o_proj.weight, before.o_proj.weight[:, 16:])


@torch.no_grad()
def test_an_output_bias_that_is_there_already_is_added_to():
    import transformers as tf

    def build():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = tf.LlamaConfig(
                vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=6, num_attention_heads=4,
                num_key_value_heads=2, attention_bias=True, mlp_bias=True,
            )  # fmt: skip
            model = tf.LlamaForCausalLM(config).eval()
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.copy_(torch.randn(parameter.shape))
        return model

    parts = mixed_parts(biases=True)
    expected = masked_logits(find_decoder(build()), parts, IDS)
    model = build()
    apply_parts(model, parts)
    torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-4, atol=1e-4)


@every_family
@torch.no_grad()
def test_a_failure_leaves_the_model_as_it_was(family, monkeypatch):
    model = tiny_model(family)
    logits, config = model(IDS).logits, model.config.to_dict()

    def fail(*_):
        raise UnsupportedModelError("no shape")

    monkeypatch.setattr("unicuco_plugin.models.parts.shrink.check_structure", fail)
    with pytest.raises(UnsupportedModelError, match="no shape"):
        apply_parts(model, mixed_parts(biases=True))
    assert type(model) is type(tiny_model(family))
    assert model.config.to_dict() == config
    assert torch.equal(model(IDS).logits, logits)


def test_a_compact_model_is_not_shrunk_again():
    model, _, _, _ = shrunk_and_expected("llama", mixed_parts(biases=False))
    with pytest.raises(UnsupportedModelError, match="pruned to different sizes already; prune the dense model"):
        apply_parts(model, KeptParts({M.format(0): (0,)}))


@pytest.mark.parametrize("family", ["phi3", "gpt_neox", "qwen3_moe", "olmo2", "opt"])
def test_other_families_are_refused_before_anything_changes(family):
    model = tiny_model(family)
    before = {name: tuple(p.shape) for name, p in model.named_parameters()}
    with pytest.raises(UnsupportedModelError):
        apply_parts(model, KeptParts({A.format(0): (0,)}))
    assert before == {name: tuple(p.shape) for name, p in model.named_parameters()}


def test_parts_of_another_model_are_refused():
    with pytest.raises(StrategyError, match=r"got 'model.layers.6.mlp'"):
        apply_parts(tiny_model("llama"), KeptParts({M.format(6): (0,)}))
