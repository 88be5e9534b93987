"""Experts taken apart into linears and put together again, in every family that fuses them."""

import pytest
import torch
from tiny import tiny_model
from tiny_moe import MIXTURES, tiny_mixture

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.levels.experts import as_linears, split_experts
from unicuco_plugin.models.blocks.mixtures import find_fused, find_split

IDS = torch.arange(3, 43)[None]


@torch.no_grad()
@pytest.mark.parametrize("family", MIXTURES)
def test_linears_compute_what_the_family_does_and_become_its_tensors_again_bit_for_bit(family):
    model = tiny_mixture(family)
    dense = model(IDS, use_cache=False).logits
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    fused = list(find_fused(model))
    assert fused
    with as_linears(model):
        assert list(find_split(model)) == fused
        assert not find_fused(model)
        # GPT-OSS adds biases in another order.
        torch.testing.assert_close(model(IDS, use_cache=False).logits, dense, rtol=0, atol=2e-5)
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert torch.equal(model(IDS, use_cache=False).logits, dense)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_numbers_keep_the_tensors_dtype_whatever_the_configuration_says(dtype):
    model = tiny_mixture("gpt_oss").to(dtype)
    model.config.dtype = torch.float32
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with as_linears(model):
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


def test_what_is_done_to_linears_is_in_the_tensors():
    model = tiny_mixture("gpt_oss")
    with as_linears(model):
        expert = model.model.layers[1].mlp.experts[2]
        for mark, linear in enumerate((expert.gate_proj, expert.up_proj, expert.down_proj), start=1):
            torch.nn.init.constant_(linear.weight, mark)
            torch.nn.init.constant_(linear.bias, -mark)
    experts = model.model.layers[1].mlp.experts
    # The family keeps gate and up in even and odd columns.
    assert experts.gate_up_proj[2, 0].tolist() == [1.0, 2.0] * 48
    assert experts.gate_up_proj_bias[2].tolist() == [-1.0, -2.0] * 48
    assert (experts.down_proj[2] == 3).all()
    assert (experts.down_proj_bias[2] == -3).all()
    assert not (experts.gate_up_proj[1] == 1).any()


def test_experts_that_transformers_cannot_run_are_refused():
    with pytest.raises(
        UnsupportedModelError, match=r"mlp\.experts: Transformers does not run these experts in float64: "
    ):
        split_experts(tiny_mixture("mixtral").double())


def test_a_model_without_experts_is_left_alone():
    model = tiny_model("llama")
    split_experts(model)
    assert not find_split(model)


def test_after_an_error_all_experts_are_together_again(monkeypatch):
    model = tiny_mixture("mixtral")
    last = model.model.layers[-1].mlp.experts
    monkeypatch.setattr(last, "act_fn", torch.nn.Tanh(), raising=False)
    last.forward = lambda states, *_: torch.tanh(states)
    message = r"^model\.layers\.3\.mlp\.experts: llm-compressor's linears of these experts compute something else than"
    with pytest.raises(UnsupportedModelError, match=message):
        split_experts(model)
    assert len(find_fused(model)) == 4
    assert not find_split(model)


def test_experts_that_the_toolkit_cannot_read_are_refused():
    model = tiny_mixture("mixtral")
    model.model.layers[0].mlp.experts.config = torch.nn.Identity()
    with pytest.raises(
        UnsupportedModelError, match=r"^model\.layers\.0\.mlp\.experts: llm-compressor cannot make linears"
    ):
        split_experts(model)
