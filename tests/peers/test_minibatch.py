"""Minibatches: exact, distinct, and new every time."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.errors import CalibrationError
from unicuco_plugin.peers.minibatch import check_pool, draw_minibatch, mean_over

POOL = torch.arange(60).view(6, 10)


@given(st.integers(1, 60), st.integers(0, 100))
def test_exactly_so_many_tokens_of_distinct_windows_are_drawn(tokens, seed):
    batches = draw_minibatch(POOL, tokens, np.random.default_rng(seed))
    ids = torch.cat([batch.flatten() for batch in batches]).tolist()
    assert len(ids) == len(set(ids)) == tokens
    # Every window is one of the pool from its beginning on.
    assert all(
        row[0] % 10 == 0 and row == list(range(row[0], row[0] + len(row))) for b in batches for row in b.tolist()
    )


def test_draws_differ_and_repeat_with_the_seed():
    random = np.random.default_rng(0)
    first, second = (draw_minibatch(POOL, 30, random)[0] for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, draw_minibatch(POOL, 30, np.random.default_rng(0))[0])


def test_the_mean_is_over_tokens():
    batches = [torch.zeros(3, 10), torch.zeros(1, 6)]
    assert mean_over(batches, lambda b: [float(b.numel()), 1.0]) == pytest.approx([(900 + 36) / 36, 1.0])


def test_a_pool_smaller_than_a_minibatch_is_refused():
    check_pool(POOL, (30, 60))
    with pytest.raises(CalibrationError, match=r"^windows must hold at least 61 tokens .* got 6 x 10 = 60"):
        check_pool(POOL, (61,))
