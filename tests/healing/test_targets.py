"""The dense model's likeliest tokens as targets, and what of them survives on disk."""

import pytest
import torch
from tiny import VOCABULARY, tiny_model

from unicuco_plugin.errors import EvaluationError
from unicuco_plugin.healing.targets import Targets, top_divergence
from unicuco_plugin.objectives.kl import kl_sums

WINDOWS = torch.randint(3, VOCABULARY, (18, 8), generator=torch.Generator().manual_seed(0))


def some_logits(seed):
    return torch.randn(5, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def top_of(logits, count):
    found = logits.log_softmax(-1).topk(count)
    return found.values, found.indices


def test_with_all_tokens_it_is_the_divergence():
    dense, other = some_logits(0), some_logits(1)
    expected = kl_sums(dense, [other])[0].item() / 5
    assert top_divergence(other, *top_of(dense, VOCABULARY)).item() == pytest.approx(expected, abs=1e-4)


def test_with_some_tokens_it_is_less_and_all_others_are_one():
    dense, other = some_logits(0), some_logits(1)
    tops, ids = top_of(dense, 7)
    P, Q = tops.exp().double(), other.softmax(-1).gather(-1, ids).double()
    P, Q = (torch.cat([shares, 1 - shares.sum(-1, keepdim=True)], -1) for shares in (P, Q))
    found = top_divergence(other, tops, ids).item()
    assert found == pytest.approx((P * (P / Q).log()).sum(-1).mean().item(), abs=1e-5)
    assert found < kl_sums(dense, [other])[0].item() / 5


def test_it_has_no_slope_where_the_two_agree():
    logits = some_logits(0).requires_grad_()
    top_divergence(logits, *top_of(logits.detach(), 7)).backward()
    assert logits.grad.abs().max() < 1e-6


def test_they_are_computed_once(tmp_path):
    model, told = tiny_model("llama").eval(), []
    targets = Targets(tmp_path, WINDOWS, 7)
    targets.prepare(model, told.append)
    assert told == [0, 16, 18]
    logs, tokens = targets[17]
    expected = model(input_ids=WINDOWS[17][None]).logits[0].log_softmax(-1).topk(7)
    assert torch.equal(tokens, expected.indices)
    torch.testing.assert_close(logs, expected.values, rtol=1e-3, atol=1e-3)
    again = Targets(tmp_path, WINDOWS, 7)
    again.prepare(None, lambda _: None)  # nothing is left to ask a model
    assert all(torch.equal(one, other) for one, other in zip(again[17], targets[17], strict=True))


def test_a_damaged_file_is_made_anew_and_is_never_read(tmp_path):
    model = tiny_model("llama").eval()
    targets = Targets(tmp_path, WINDOWS, 7)
    targets.prepare(model, lambda _: None)
    before, path = targets[0], tmp_path / "00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(EvaluationError, match=r"00000\.safetensors: was removed or damaged meanwhile"):
        Targets(tmp_path, WINDOWS, 7)[0]
    again = Targets(tmp_path, WINDOWS, 7)
    again.prepare(model, lambda _: None)
    assert all(torch.equal(one, other) for one, other in zip(again[0], before, strict=True))
