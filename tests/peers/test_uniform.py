"""The uniform strategy."""

import pytest

from unicuco_plugin.peers.uniform import Uniform


def test_every_block_loses_the_same_and_nothing_is_measured(ask, decoder):
    result = Uniform()(ask(0.6))
    assert list(result.units) == list(decoder.block_names)
    assert list(result.units.values()) == pytest.approx([0.6] * 4, abs=1e-15)
    assert (result.space, result.sparsity, result.tokens) == ("sparsity", 0.6, 0)
