"""Sizes in a family's own fields, where it has such."""

import pytest
from tiny import tiny_model

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.parts.plain_sizes import plain_fields, set_fields

HEADS = {"head_dim": 8, "num_attention_heads": 2, "num_key_value_heads": 1}


def sizes(groups=2, neurons=48, **more):
    return {"num_key_value_heads": groups, "intermediate_size": neurons} | more


@pytest.mark.parametrize(
    ("family", "layers", "expected"),
    [
        ("llama", [sizes(), sizes()], {}),
        ("qwen2", [sizes(1), sizes(1)], HEADS),  # whose configuration has no head_dim of its own
        ("qwen3", [sizes(1, 32), sizes(1, 32)], HEADS | {"intermediate_size": 32}),
        ("llama", [sizes(1), sizes(2)], None),
        ("llama", [sizes(2, 0, skip=["mlp"])] * 2, None),
        ("llama", [sizes(2, 32), sizes(2, 32, output_bias=["mlp"])], {"intermediate_size": 32, "mlp_bias": True}),
        ("qwen3", [sizes(1), sizes(1, output_bias=["attention"])], HEADS | {"attention_bias": True}),
        ("qwen3", [sizes(2, 32, output_bias=["mlp"])] * 2, None),
        ("mistral", [sizes(1, output_bias=["attention"])] * 2, None),
    ],
)
def test_one_size_is_told_in_the_familys_fields(family, layers, expected):
    assert plain_fields(tiny_model(family).config, layers) == expected


def test_every_linear_gets_the_bias_that_the_field_promises():
    model = tiny_model("llama")
    set_fields(find_decoder(model), {"attention_bias": True})
    biases = [name for name, _ in model.named_parameters() if name.endswith("bias")]
    assert len(biases) == 6 * 4
    assert all("self_attn" in name for name in biases)
    assert not any(bool(p.any()) for name, p in model.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 3, "num_key_value_heads": 3}, "cannot be told these sizes: .*multiple of the number"),
        ({"intermediate_size": 32}, "builds another model"),
    ],
)
def test_sizes_that_are_refused_or_not_the_models_are_said(fields, message):
    with pytest.raises(UnsupportedModelError, match=f"(?s){message}"):
        set_fields(find_decoder(tiny_model("llama")), fields)
