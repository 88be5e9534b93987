import pytest
import torch
from torch import nn

from unicuco_plugin.modifiers.toolkit.flat_inputs import flat_inputs


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3), (2, 4, 5, 3), (2, 2, 4, 5, 3)])
def test_a_linear_gets_three_dimensions_at_most_and_gives_what_it_gave(shape):
    model = nn.Sequential(nn.Linear(3, 7))
    states, seen = torch.randn(shape), []
    expected = model(states)
    with flat_inputs(model):
        hook = model[0].register_forward_hook(lambda _, args, __: seen.append(args[0].shape))
        torch.testing.assert_close(model(states), expected)
    hook.remove()
    assert seen == [states.shape if len(shape) <= 3 else (2, states.numel() // 6, 3)]


def test_no_hook_stays_even_if_the_toolkit_fails():
    model = nn.Sequential(nn.Linear(3, 7))
    with pytest.raises(ZeroDivisionError), flat_inputs(model):
        raise ZeroDivisionError
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks
