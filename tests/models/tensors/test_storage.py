"""Tensors where they are kept, on models as the toolkit holds them."""

from contextlib import ExitStack

import pytest
import torch
from accelerator import copy_on_read
from compressed_tensors.offload import load_offloaded_model, set_onload_device
from tiny import tiny_model
from torch import nn
from transformers import AutoModelForCausalLM

from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.blocks.sizes import measure_sizes
from unicuco_plugin.models.tensors.gradients import gradients_inside
from unicuco_plugin.models.tensors.storage import (
    compute_device,
    count_parameters,
    exchange_data,
    exchanged,
    kept_tensors,
    read_all,
    read_kept,
    settle,
    write_tensor,
)


@pytest.fixture
def token_ids():
    return torch.randint(4, 128, (2, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["plain", "host", "disk"])
def model(request, monkeypatch, tmp_path):
    """A tied model, not offloaded, offloaded to memory and to disk; what is offloaded is read as copies."""
    made = tiny_model("llama")
    if request.param == "host":
        set_onload_device(made, "cpu")
    elif request.param == "disk":
        made.save_pretrained(tmp_path / "dense")
        with load_offloaded_model():
            made = AutoModelForCausalLM.from_pretrained(
                tmp_path / "dense", device_map={"": "disk"}, offload_folder=str(tmp_path / "offloaded")
            ).eval()
    copy_on_read(monkeypatch)
    return made


def test_the_fixture_is_worth_something(model, request):
    linear = model.model.layers[0].mlp.down_proj
    if "plain" not in request.node.name:
        assert linear.weight is not linear.weight


def test_structure_and_weights_are_those_of_the_plain_model(model):
    plain = tiny_model("llama")
    assert fingerprint(model) == fingerprint(plain)
    assert measure_sizes(find_decoder(model)) == measure_sizes(find_decoder(plain))
    assert count_parameters(model) == count_parameters(plain) == sum(p.numel() for p in plain.parameters())
    want = plain.state_dict()
    found = dict(read_all(model))
    assert found.keys() == want.keys()
    assert all(torch.equal(found[name], want[name]) for name in want)
    assert compute_device(model) == torch.device("cpu")


def test_what_is_written_is_what_is_computed_with(model, token_ids):
    linear = model.model.layers[1].mlp.down_proj
    before, logits = read_kept(linear, "weight").clone(), model(token_ids).logits
    write_tensor(linear, "weight", torch.zeros_like(before))
    assert not linear.weight.any()
    changed = model(token_ids).logits
    assert not torch.equal(changed, logits)
    exchange_data(linear, "weight", before)
    assert torch.equal(model(token_ids).logits, logits)


def test_other_tensors_for_a_while_leave_no_trace(model, token_ids):
    mlp = model.model.layers[1].mlp
    logits = model(token_ids).logits
    with kept_tensors():
        kept = mlp.gate_proj.weight
    few = {name: getattr(mlp, name).weight[:8].detach() for name in ("gate_proj", "up_proj")}
    few["down_proj"] = mlp.down_proj.weight[:, :8].detach()
    with ExitStack() as stack:
        for name, value in few.items():
            stack.enter_context(exchanged(getattr(mlp, name), {"weight": value}))
        assert not torch.equal(model(token_ids).logits, logits)
    assert torch.equal(model(token_ids).logits, logits)
    with kept_tensors():
        assert mlp.gate_proj.weight is kept


def test_a_new_module_is_kept_where_the_old_one_was(model, token_ids):
    mlp = model.model.layers[1].mlp
    old = mlp.down_proj
    logits = model(token_ids).logits
    new = nn.Linear(old.in_features, old.out_features, bias=False)
    new.weight.data.copy_(read_kept(old, "weight"))
    mlp.down_proj = settle(new, old)
    assert type(new._parameters) is type(old._parameters)
    assert torch.equal(model(token_ids).logits, logits)


def test_no_parameter_asks_for_a_gradient_meanwhile(model, token_ids):
    with kept_tensors():
        before = [p.requires_grad for p in model.parameters()]
    with gradients_inside(model):
        model(token_ids).logits.sum().backward()
    with kept_tensors():
        assert [p.requires_grad for p in model.parameters()] == before
        assert all(p.grad is None for p in model.parameters())
