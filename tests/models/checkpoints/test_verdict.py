"""Transformers' verdict on a checkpoint just written."""

import json
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, tiny_model

from unicuco_plugin.errors import ExportError, UnsupportedModelError
from unicuco_plugin.models.blocks.surgery import drop_blocks
from unicuco_plugin.models.checkpoints import verdict
from unicuco_plugin.models.checkpoints.verdict import check_verdict
from unicuco_plugin.models.loading import load_model


@pytest.fixture
def saved(tmp_path):
    model = tiny_model("llama", blocks=2)
    model.save_pretrained(tmp_path)
    return tmp_path, model


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refusal(folder, model):
    with pytest.raises(ExportError) as caught:
        check_verdict(folder, model)
    text = str(caught.value)
    assert len(text) <= 300 and "\n" not in text
    return text


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_checkpoint_of_every_family_passes(family, tmp_path):
    model = tiny_model(family, blocks=4)
    drop_blocks(model, [1])
    model.save_pretrained(tmp_path)
    assert check_verdict(tmp_path, model) == ""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_passes(dtype, tmp_path):
    model = tiny_model("qwen3_moe", blocks=2).to(dtype)
    model.save_pretrained(tmp_path)
    assert check_verdict(tmp_path, model) == ""


def test_the_model_in_memory_is_left_as_it_was(saved):
    folder, model = saved
    model.model.layers[0].train()
    training = [module.training for module in model.modules()]
    generation, state = model.generation_config, torch.get_rng_state()
    check_verdict(folder, model)
    assert [module.training for module in model.modules()] == training
    assert model.generation_config is generation
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "which would load another model: model.norm.weight is missing"),
        (lambda t: t.update(extra=torch.ones(1)), "which would load another model: extra is unexpected"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(7)}),
            "which would load another model: model.norm.weight has another shape",
        ),
        (
            lambda t: t["model.norm.weight"].add_(0.001),
            "the checkpoint's model.norm.weight is not the one in memory",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message, saved):
    folder, model = saved
    rewrite(folder, change)
    assert message in refusal(folder, model)


def test_what_a_class_passes_over_is_no_fault(tmp_path):
    model = tiny_model("llama", blocks=2)
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"mtp.layers.0.weight": torch.ones(1)}))
    type(model)._keys_to_ignore_on_load_unexpected = [r"^mtp.*"]
    try:
        assert check_verdict(tmp_path, model) == ""
    finally:
        del type(model)._keys_to_ignore_on_load_unexpected


def test_a_configuration_that_computes_something_else_is_refused(saved):
    folder, model = saved
    configure(folder, rope_parameters={"rope_type": "default", "rope_theta": 3.0})
    text = refusal(folder, model)
    assert text.startswith("the checkpoint computes something else than the model in memory: ")
    assert text.endswith("no file was kept; report it to unicuco-plugin with the model's name")


def test_a_cache_that_does_not_go_with_the_model_is_refused(saved, monkeypatch):
    folder, model = saved
    plain = verdict._logits
    seen = []

    def other(model, ids):
        seen.append(ids)
        # The third call is the one without the cache, on what was written.
        return plain(model, ids.flip(1) if len(seen) == 3 else ids)

    monkeypatch.setattr(verdict, "_logits", other)
    assert "writes other text with Transformers' cache than without" in refusal(folder, model)


def test_a_configuration_that_builds_nothing_is_refused(saved):
    folder, model = saved
    configure(folder, num_attention_heads=5)
    assert refusal(folder, model).startswith("the checkpoint is no use: Transformers cannot load it: ")


def test_missing_code_is_named(saved):
    folder, model = saved
    model.config.auto_map = {"AutoConfig": "configuration_my.My", "AutoModel": "elsewhere/repo--modeling.My"}
    assert refusal(folder, model).startswith("the checkpoint needs configuration_my.py for its AutoConfig")


@pytest.mark.parametrize("lacking", ["memory of two", "memory of one"])
def test_without_memory_it_is_loaded_and_run_from_its_files(lacking, saved, monkeypatch):
    folder, model = saved
    if lacking == "memory of two":
        monkeypatch.setattr(verdict, "free_memory", lambda _: 10.0)
    else:
        model = load_model(folder, offload="disk")
    placed = []
    put = verdict.Placement.put
    monkeypatch.setattr(verdict.Placement, "put", lambda place, *given: placed.append(place) or put(place, *given))
    assert check_verdict(folder, model) == ""
    assert [place.offload for place in placed] == ["disk"]
    if lacking == "memory of two":  # otherwise these are the model's own files
        rewrite(folder, lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"].zero_())
        assert "model.layers.1.mlp.up_proj.weight is not the one in memory" in refusal(folder, model)


def test_without_memory_and_blocks_names_are_compared_and_that_is_said(saved, monkeypatch):
    folder, model = saved
    monkeypatch.setattr(verdict, "free_memory", lambda _: 10.0)
    monkeypatch.setattr(verdict, "place_model", Mock(side_effect=UnsupportedModelError("no blocks")))
    assert check_verdict(folder, model).startswith("too little memory to load it beside the model: ")
    rewrite(folder, lambda tensors: tensors.pop("model.norm.weight"))
    assert "model.norm.weight is missing" in refusal(folder, model)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[1.0, 2.0, 4.0]]), 0.0),
        (torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[6.0, 7.0, 9.0]]), 0.0),  # softmax gives the same
        (torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, -1.0]]), 0.0),
        (torch.tensor([[3.0, -3.0]]), torch.tensor([[1.0, -1.0]]), 2.0),
        (torch.tensor([[1.0, float("nan")]]), torch.tensor([[1.0, -1.0]]), float("inf")),
        (torch.tensor([[1.0, float("nan")]]), torch.tensor([[1.0, float("nan")]]), 0.0),
        (torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, float("nan")]]), float("inf")),
    ],
)
def test_the_difference_is_what_softmax_sees(one, other, expected):
    assert verdict._difference(one[None], other[None]) == pytest.approx(expected, abs=1e-6)
