"""One strategy, the model on the host, offloaded to memory and to disk: one checkpoint."""

import pytest
import torch
from accelerator import copy_on_read
from compressed_tensors.offload import load_offloaded_model, set_onload_device
from depth_strategies import sublayer_strategy, whole_block_strategy
from llmcompressor.modifiers.pruning import SparseGPTModifier
from safetensors.torch import load_file
from sparsity_strategies import sparsity_strategy
from structured_parts import mixed_parts
from structured_strategies import structured_strategy
from transformers import AutoModelForCausalLM

from unicuco_plugin.models.loading import load_model
from unicuco_plugin.models.parts.kept_parts_file import write_kept_parts
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier

pytestmark = pytest.mark.slow


@pytest.fixture
def machine(monkeypatch):
    """Only where reading gives copies can one tell."""
    copy_on_read(monkeypatch)


def structured(model, layout, folder):
    parts = mixed_parts(biases=False)
    write_kept_parts(folder / "kept.parts", parts)
    return SparsityProfileModifier(
        strategy=structured_strategy(model, parts).to_dict(),
        structured={"kept_parts": str(folder / "kept.parts"), "format": layout},
    )


MODIFIERS = {
    "depth": lambda model, _: [SparsityProfileModifier(strategy=whole_block_strategy(model).to_dict())],
    "sublayer": lambda model, _: [SparsityProfileModifier(strategy=sublayer_strategy(model).to_dict())],
    "sparsity": lambda model, _: [
        SparsityProfileModifier(strategy=sparsity_strategy(model).to_dict()),
        SparseGPTModifier(sparsity=0.5, ignore=["lm_head"]),
    ],
    "compact": lambda model, folder: [structured(model, "compact", folder)],
    "stock": lambda model, folder: [structured(model, "stock", folder)],
}


def loaded(dense, where, folder):
    if where == "disk":
        with load_offloaded_model():
            return AutoModelForCausalLM.from_pretrained(
                dense, device_map={"": "disk"}, offload_folder=str(folder / "offloaded"), dtype=torch.float32
            )
    model = load_model(dense)
    return set_onload_device(model, "cpu") if where == "memory" else model


@pytest.mark.parametrize("name", MODIFIERS)
def test_a_model_may_be_handed_over_offloaded(name, checkpoint, calibration, tmp_path):
    dense = checkpoint("llama")
    given = {"calibration": calibration} if name == "sparsity" else {}
    modifiers = MODIFIERS[name](load_model(dense), tmp_path)
    found = {}
    for where in ("folder", "host", "memory", "disk"):
        model = str(dense) if where == "folder" else loaded(dense, where, tmp_path)
        fresh = [type(modifier)(**modifier.model_dump(exclude_unset=True)) for modifier in modifiers]
        prune_with_recipe(model, fresh, tmp_path / where, **given)
        found[where] = load_file(tmp_path / where / "model.safetensors")
    for where, tensors in found.items():
        assert tensors.keys() == found["folder"].keys(), where
        assert all(torch.equal(tensor, found["folder"][key]) for key, tensor in tensors.items()), where
