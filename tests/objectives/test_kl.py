"""Sums of KL from logits, against float64 over whole distributions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unicuco_plugin.objectives.kl import kl_sums


def logits(rows, seed, scale=3.0):
    return scale * torch.randn(rows, 50, generator=torch.Generator().manual_seed(seed))


def plain(a, b, direction):
    log_p, log_q = a.double().log_softmax(-1), b.double().log_softmax(-1)
    if direction == "reverse":
        log_p, log_q = log_q, log_p
    return (log_p.exp() * (log_p - log_q)).sum().item()


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 40), models=st.integers(0, 3), seed=st.integers(0, 99))
def test_sums_equal_those_of_whole_distributions(direction, rows, models, seed):
    dense = logits(rows, seed)
    pruned = [logits(rows, seed + 1 + i) for i in range(models)]
    expected = [plain(dense, b, direction) for b in pruned]
    assert kl_sums(dense, pruned, direction).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_constant_added_to_all_logits_of_a_position_changes_nothing(direction):
    dense, pruned = logits(9, 0), logits(9, 1)
    (value,) = kl_sums(dense, [pruned], direction).tolist()
    shift = 4.0 * torch.arange(9.0)[:, None]
    assert kl_sums(dense + shift, [pruned - shift], direction).tolist() == pytest.approx([value], rel=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_model_does_not_diverge_from_itself(direction):
    dense = logits(9, 0)
    assert kl_sums(dense, [dense], direction).tolist() == pytest.approx([0.0], abs=1e-4)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_sum_is_the_same_bits_whoever_else_is_there(direction):
    dense, pruned = logits(21, 0), [logits(21, 1 + i) for i in range(4)]
    together = kl_sums(dense, pruned, direction)
    for index, alone in enumerate(pruned):
        assert torch.equal(kl_sums(dense, iter([alone]), direction), together[index : index + 1])


def test_half_precision_logits_are_summed_in_float32():
    dense, pruned = logits(30, 0).bfloat16(), logits(30, 1).bfloat16()
    assert kl_sums(dense, [pruned]).tolist() == pytest.approx([plain(dense, pruned, "forward")], rel=1e-5)
