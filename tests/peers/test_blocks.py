"""How many blocks go, and which."""

import pytest

from unicuco_plugin.errors import RequestError
from unicuco_plugin.peers.blocks import blocks_to_drop, drop_ranked


@pytest.mark.parametrize(("sparsity", "removed"), [(0.25, 8), (0.26, 9), (0.01, 1), (3 / 32, 3), (31 / 32, 31)])
def test_the_fewest_blocks_that_reach_the_share_go(sparsity, removed):
    assert blocks_to_drop(32, sparsity) == removed


def test_one_block_has_to_stay():
    with pytest.raises(RequestError, match=r"^sparsity must be at most 0.96875: one of 32 blocks has to stay"):
        blocks_to_drop(32, 0.97)


def test_the_least_important_go_and_ties_to_the_earlier(ask):
    result = drop_ranked(ask(0.5), [0.3, 0.1, 0.3, 0.9], 0.0, 7, {"a": 1})
    assert result.units == {"model.layers.1": 1.0, "model.layers.0": 1.0}
    assert (result.sparsity, result.tokens, result.details) == (0.5, 7, {"a": 1})
