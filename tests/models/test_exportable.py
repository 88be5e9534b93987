"""Whether a model can be exported, asked of its configuration alone."""

import copy
import functools
import re

import pytest
import torch
import transformers as tf
from tiny import FAMILIES, tiny_model
from tiny_moe import MIXTURES
from zoo.families import build

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.exportable import check_exportable

SHAPE = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 6,
}  # fmt: skip
PARTS = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "smollm3", "granite")


class Counting(tf.LlamaForCausalLM):
    """Remembers how many blocks its configuration has, as no configuration with fewer can tell."""

    def __init__(self, config):
        super().__init__(config)
        self.model.layers[0].share = 1 / config.num_hidden_layers


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("space", [None, "depth", "sparsity", "a plugin's"])
def test_every_family_can_be_exported_without_some_blocks_or_weights(family, space):
    config = tiny_model(family, blocks=4).config
    before = copy.deepcopy(config.to_dict())
    check_exportable(config, space)
    assert config.to_dict() == before


@pytest.mark.parametrize("format", ["compact", "stock", None])
@pytest.mark.parametrize("family", PARTS)
def test_families_with_parts_can_be_exported_without_some(family, format):
    config = tiny_model(family, blocks=3).config
    before = copy.deepcopy(config.to_dict())
    check_exportable(config, "structured", format=format, compensate=False)
    assert config.to_dict() == before


def test_a_format_that_cannot_carry_biases_is_refused_unless_the_other_will_do():
    config = tiny_model("mistral", blocks=2).config
    check_exportable(config, "structured")
    with pytest.raises(UnsupportedModelError, match="take --format compact or --no-compensate"):
        check_exportable(config, "structured", format="stock")


@pytest.mark.parametrize("space", [None, "depth", "sublayer", "sparsity"])
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "granitemoe", "deepseek_v3"])
def test_mixtures_of_experts_can_be_exported(family, space):
    check_exportable(MIXTURES[family](), space)


def test_parts_of_experts_are_refused():
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.0\.mlp"):
        check_exportable(MIXTURES["mixtral"](), "structured")


def test_a_share_that_linears_cannot_make_is_refused():
    config = tf.JetMoeConfig(
        vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_key_value_heads=2,
        kv_channels=8, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError) as caught:
        check_exportable(config, "sparsity", share=0.5)
    assert re.fullmatch(
        r"JetMoeForCausalLM: linears have \d\.\d% of the weights of its blocks, so a sparsity of 0\.5 cannot be met; "
        r"model\.layers\.0\.\S+ holds experts in one tensor, which llm-compressor does not prune: ask for at most "
        r"0\.0\d+, or drop blocks \(the space depth\)",
        str(caught.value),
    )
    assert len(str(caught.value)) <= 300
    check_exportable(config, "sparsity", share=0.01)
    with pytest.raises(UnsupportedModelError, match="too few for a profile of the space sparsity; model"):
        check_exportable(config, "sparsity")


@pytest.mark.parametrize(
    "config",
    [
        tf.DeepseekV3Config(
            **SHAPE, n_routed_experts=4, n_group=1, topk_group=1, num_experts_per_tok=2, moe_intermediate_size=16,
            q_lora_rank=24, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=16,
        ),
        tf.Qwen3NextConfig(**SHAPE, num_experts=4, moe_intermediate_size=16, head_dim=16),
        tf.MiniCPM3Config(
            **SHAPE | {"num_key_value_heads": 4}, q_lora_rank=24, kv_lora_rank=16, qk_rope_head_dim=8,
            qk_nope_head_dim=16, v_head_dim=16,
        ),
    ],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_less_common_families_can_be_exported_without_a_block(config):
    check_exportable(config, "depth")


@pytest.mark.parametrize("space", ["depth", "sublayer"])
def test_a_class_that_remembers_the_number_of_blocks_is_refused_where_blocks_go(space):
    config = tf.LlamaConfig(**SHAPE)
    check_exportable(config, "sparsity", kind=Counting)
    with pytest.raises(UnsupportedModelError) as caught:
        check_exportable(config, space, kind=Counting)
    assert str(caught.value) == (
        f"Counting: no checkpoint of the space {space} would load as what was pruned: without one block its "
        "configuration builds another model: model.layers.0.share is 0.16666666666666666, expected 0.2; "
        "take the space sparsity"
    )


def test_a_half_without_an_output_projection_is_refused_for_its_space():
    with pytest.raises(
        UnsupportedModelError, match="has no module as its mlp, which the spaces sublayer and structured need"
    ):
        check_exportable(tiny_model("opt", blocks=2).config, "sublayer")


def test_a_configuration_that_builds_nothing_is_refused():
    config = tf.LlamaConfig(**SHAPE)
    config.hidden_act = "no such function"
    with pytest.raises(UnsupportedModelError, match=r"^llama: Transformers builds no model from its configuration: "):
        check_exportable(config)


def test_no_weight_is_made(monkeypatch):
    devices = set()
    plain = torch.nn.Linear.__init__

    @functools.wraps(plain)
    def spy(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        devices.add(self.weight.device.type)

    monkeypatch.setattr(torch.nn.Linear, "__init__", spy)
    check_exportable(tf.LlamaConfig(**SHAPE), "structured")
    assert devices == {"meta"}


def test_linears_that_multiply_in_another_way_are_refused_where_shares_of_them_would_go():
    config = build("deepseek_v4").config
    with pytest.raises(UnsupportedModelError, match=r"o_a_proj: DeepseekV4GroupedLinear does not multiply its"):
        check_exportable(config, "sparsity")
    check_exportable(config, "depth")
    check_exportable(build("falcon").config, "sparsity")  # a class of its own, and an ordinary product
