"""The form of what blocks return."""

import pytest
import torch

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.block_output import BlockOutput

STATES, OTHER = torch.ones(1, 2, 3), torch.zeros(1, 2, 3)


@pytest.mark.parametrize("output", [STATES, (STATES,), (STATES, None), [STATES, torch.ones(2), None]], ids=repr)
def test_states_are_found_and_put_into_an_output_of_the_same_form(output):
    form = BlockOutput.read(output, "block")
    assert form.states(output) is STATES
    made = form.of(OTHER)
    assert type(made) is type(output)
    assert form.states(made) is OTHER
    if not isinstance(output, torch.Tensor):
        assert len(made) == len(output)
        assert all(value is None for value in made[1:])


@pytest.mark.parametrize("output", [None, (), {"states": STATES}, (None, STATES)], ids=repr)
def test_what_does_not_begin_with_states_is_refused(output):
    kind = type(output).__name__
    message = rf"^model\.layers\.1: expected it to return states, or a tuple that begins with them, got {kind}$"
    with pytest.raises(UnsupportedModelError, match=message):
        BlockOutput.read(output, "model.layers.1")
