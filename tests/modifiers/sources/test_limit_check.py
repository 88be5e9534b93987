"""Requested limits against the checkpoint that was written."""

import pytest
from depth_strategies import whole_block_strategy
from tiny import tiny_model

from unicuco_plugin.errors import ExportError
from unicuco_plugin.modifiers.sources.limit_check import as_formed, check_limits
from unicuco_plugin.quantities import Latency, Memory
from unicuco_plugin.request import Request


@pytest.fixture(scope="module")
def strategy():
    asked = Request.of(max_memory=1000, max_params=50, context=8)
    memory = Memory(weights=600, cache=200, buffers=100)
    return whole_block_strategy(tiny_model("llama")).model_copy(update={"request": asked, "memory": memory})


def test_every_limit_of_a_request_is_held_against_what_was_written(strategy):
    check_limits([strategy], {"params": 50, "bytes": 700})
    with pytest.raises(
        ExportError, match=r"^max_params must be met: 50 was requested, the checkpoint would have 51\. "
    ):
        check_limits([strategy], {"params": 51, "bytes": 700})
    with pytest.raises(
        ExportError, match=r"^max_memory must be met: 1,000 was requested, the checkpoint would have 1,001"
    ):
        check_limits([strategy], {"params": 50, "bytes": 701})


@pytest.mark.parametrize(
    ("space", "format", "params", "timed"),
    [
        ("structured", "stock", 70, False),
        ("structured", "deci", 50, True),
        ("structured", "compact", 50, True),
        ("sublayer", "deci", 40, False),  # silenced halves were timed
        ("sublayer", "deci", 50, True),
        ("depth", "", 50, True),
    ],
)
def test_times_of_another_form_are_forgotten(strategy, space, format, params, timed):
    ms = {"decode": 1.0, "prefill": 2.0, "dense_decode": 2.0, "dense_prefill": 3.0}
    latency = Latency(**ms, device="a card", dtype="float32")
    given = strategy.model_copy(update={"space": space, "params": 50, "latency": latency})
    made = as_formed(given, format, params, 700)
    assert (made.latency == latency) == timed
    assert made.params == (params if format in ("stock", "deci") else 50)
