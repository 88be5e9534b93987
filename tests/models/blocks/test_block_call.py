"""Calls of blocks, taken apart and made again."""

import pytest
import torch

from unicuco_plugin.models.blocks.block_call import BlockCall, same_numbers

STATES, OTHERS, MASK = torch.zeros(2, 3), torch.ones(2, 3), torch.ones(3)


def block(*args, **kwargs):
    return args, kwargs


@pytest.mark.parametrize(
    ("args", "kwargs", "made"),
    [
        ((STATES, MASK), {"use_cache": False}, ((OTHERS, MASK), {"use_cache": False})),
        ((), {"mask": MASK, "hidden_states": STATES}, ((), {"hidden_states": OTHERS, "mask": MASK})),
        ((), {"x": STATES, "mask": MASK}, ((), {"x": OTHERS, "mask": MASK})),
    ],
    ids=["first", "by the usual name", "first by another name"],
)
def test_a_call_is_made_again_on_other_states(args, kwargs, made):
    states, call = BlockCall.split(args, kwargs)
    assert states is STATES
    assert same_numbers(call(block, OTHERS), made)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (MASK, MASK.clone(), True),
        (MASK, 2 * MASK, False),
        ((MASK, None), (MASK, None), True),
        ((MASK, None), [MASK, None], False),
        ({"a": MASK}, {"a": MASK, "b": 1}, False),
        ({"a": (1, MASK)}, {"a": (1, 0 * MASK)}, False),
        (1, 1.0, False),
        ("a", "b", False),
        pytest.param(object(), object(), True, id="no numbers"),
    ],
    ids=str,
)
def test_arguments_are_the_same_if_their_numbers_are(one, other, same):
    assert same_numbers(one, other) == same
