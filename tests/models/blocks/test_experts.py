"""Mixtures of experts, fused or apart."""

import pytest
from tiny_moe import MIXTURES, tiny_mixture

from unicuco_plugin.levels.experts import split_experts
from unicuco_plugin.models.blocks.as_configured import check_structure
from unicuco_plugin.models.blocks.coverage import measure_coverage
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.experts import disk_names, fuse_experts
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.blocks.mixtures import find_fused
from unicuco_plugin.models.blocks.sizes import measure_sizes


@pytest.mark.parametrize("family", MIXTURES)
def test_a_model_taken_apart_is_the_same_model(family):
    model = tiny_mixture(family)
    before = fingerprint(model), measure_sizes(find_decoder(model)), measure_coverage(find_decoder(model))
    split_experts(model)
    assert (fingerprint(model), measure_sizes(find_decoder(model)), measure_coverage(find_decoder(model))) == before
    check_structure(model)


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("mixtral", {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}),
        ("qwen3_moe", {"gate_proj": "gate_proj", "down_proj": "down_proj", "up_proj": "up_proj"}),
        ("nemotron_h", {"down_proj": "down_proj", "up_proj": "up_proj"}),
        ("gpt_oss", {}),
        ("granitemoe", {}),
    ],
)
def test_files_call_the_linears_of_an_expert_by_the_familys_names(family, names):
    model = tiny_mixture(family)
    [name, *_] = find_fused(model)
    assert disk_names(model, name) == names
    split_experts(model)
    assert disk_names(model, name) == names


def test_quantised_experts_stay_apart():
    model = tiny_mixture("mixtral")
    split_experts(model)
    model.model.layers[1].mlp.experts[0].up_proj.quantization_scheme = object()
    assert fuse_experts(model) == tuple(f"model.layers.{index}.mlp.experts" for index in (0, 2, 3))


def test_coverage_counts_what_is_in_linears():
    model = tiny_mixture("mixtral")
    experts, attention = 4 * 4 * 3 * 32 * 48, 4 * (2 * 32 * 32 + 2 * 32 * 16)
    found = measure_coverage(find_decoder(model))
    assert found.linears == experts + attention
    assert found.blocks == experts + attention + 4 * (4 * 32 + 2 * 32)  # routers, norms
    assert found.apart == ""
