"""Linears under the names of files, and their sizes."""

import pytest
from zoo.families import build

from unicuco_plugin.models.sketch import sketch_from_fields, sketch_model
from unicuco_plugin.serving.layers import model_units


def units_of(family):
    model = build(family)
    return {unit.name: unit for unit in model_units(sketch_model(model.config, type(model)))}


def test_units_have_the_sizes_of_weights_and_the_head_is_told():
    units = units_of("llama")
    qkv = units["model.layers.0.self_attn.q_proj+k_proj+v_proj"]
    assert [(linear.rows, linear.columns) for linear in qkv.linears] == [(32, 32), (16, 32), (16, 32)]
    assert units["model.layers.0.mlp.down_proj"].linears[0].columns == 48
    assert [unit.kind for unit in units.values()].count("head") == 1


def test_linears_of_a_unit_stand_as_vllm_packs_them_and_not_as_a_family_made_them():
    unit = units_of("opt")["model.decoder.layers.0.self_attn.k_proj+v_proj+q_proj"]
    assert [name.rpartition(".")[2] for name in unit.names] == ["q_proj", "k_proj", "v_proj"]


@pytest.mark.parametrize(
    ("family", "first", "leaves"),
    [
        ("qwen3_moe", "model.layers.0.mlp.experts.0", {"gate_proj", "up_proj", "down_proj"}),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.0", {"w1", "w2", "w3"}),
        ("gpt_oss", "model.layers.0.mlp.experts.0", {"gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_experts_are_called_as_on_disk(family, first, leaves):
    unit = units_of(family)["model.layers.0.mlp.experts"]
    assert unit.kind == "experts"
    assert len(unit.linears) == 12
    assert {name.rpartition(".")[2] for name in unit.names if name.startswith(f"{first}.")} == leaves
    down = next(linear for linear in unit.linears if linear.name.endswith((".w2", ".down_proj")))
    assert down.rows == 32


def test_a_files_fields_make_the_same_model_quantised_or_not():
    fields = build("llama").config.to_dict()
    plain, quantised = (
        model_units(sketch_from_fields(fields | more)) for more in ({}, {"quantization_config": {"a": 1}})
    )
    assert plain == quantised
