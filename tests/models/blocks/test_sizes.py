"""Sizes against the files that are really written."""

import pytest
import torch
from tiny import FAMILIES, tiny_model, unfuse_experts

from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.sizes import measure_sizes
from unicuco_plugin.models.blocks.surgery import dropped
from unicuco_plugin.models.loading import load_model


def _on_disk(model, folder):
    model.save_pretrained(folder)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@pytest.mark.parametrize("family", FAMILIES)
def test_bytes_bound_the_file_of_the_dense_and_the_dropped_model(family, tmp_path):
    model = tiny_model(family, blocks=12).to(torch.bfloat16)
    sizes = measure_sizes(find_decoder(model))
    assert sizes.dtype == "bfloat16"
    assert sizes.bytes_per_param == 2
    dense = _on_disk(model, tmp_path / "dense")
    assert dense <= sizes.total_bytes <= 1.01 * dense
    with dropped(model, [0, 2, 10]):
        small = _on_disk(model, tmp_path / "small")
        params = sum(parameter.numel() for parameter in model.parameters())
    gone = (0, 2, 10)
    assert small <= sizes.total_bytes - sum(sizes.block_bytes[block] for block in gone) <= 1.01 * small
    assert sizes.total_params - sum(sizes.block_params[block] for block in gone) == params


def test_experts_that_the_toolkit_unfused_have_the_same_sizes():
    model = tiny_model("qwen3_moe")
    before = measure_sizes(find_decoder(model))
    unfuse_experts(model)
    assert measure_sizes(find_decoder(model)) == before


def test_tied_parameters_count_once():
    tied = measure_sizes(find_decoder(tiny_model("llama")))
    untied = measure_sizes(find_decoder(tiny_model("mistral")))
    assert untied.total_params - tied.total_params == 128 * 32
    assert untied.block_params == tied.block_params


def test_shards_and_their_headers_stay_within_the_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("unicuco_plugin.models.blocks.sizes._SHARD", 20_000)
    model = tiny_model("gemma3")
    sizes = measure_sizes(find_decoder(model))
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    shards = [path.stat().st_size for path in tmp_path.glob("*.safetensors")]
    assert len(shards) > 3
    assert sum(shards) <= sizes.total_bytes


@pytest.mark.slow
def test_the_real_model_is_bounded_within_a_thousandth(smollm2):
    real = (smollm2 / "model.safetensors").stat().st_size
    sizes = measure_sizes(find_decoder(load_model(smollm2)))
    assert sizes.total_params == 134_515_008
    assert real <= sizes.total_bytes <= 1.001 * real
