"""Whether tensors of one group would pass for those of another."""

import pytest
from quantisations import integers, layout_of

BLOCKS = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "block", "block_structure": [128, 128]}
TINY = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16}
ALSO_INPUTS = {"input_activations": TINY | {"dynamic": "local"}}


@pytest.mark.parametrize(
    ("stored", "served", "passes"),
    [
        ((integers(),), (integers(),), True),
        ((integers(),), (integers(symmetric=False),), True),  # zero points that are not found stay as they were made
        ((integers(symmetric=False),), (integers(),), False),
        ((integers(4),), (integers(8),), False),
        ((integers(group=32),), (integers(group=64),), False),
        ((BLOCKS,), (BLOCKS,), True),
        ((BLOCKS,), (BLOCKS | {"block_structure": [64, 64]},), False),
        ((TINY, ALSO_INPUTS), (TINY,), False),  # vLLM does not ask for input_global_scale
        ((TINY,), (TINY, ALSO_INPUTS), True),
    ],
)
def test_tensors_pass_for_others_of_their_shape_if_none_is_too_many(stored, served, passes):
    groups = [(["a"], *stored), (["b"], *served)]
    assert layout_of([], *groups).loads_as("group_0", "group_1") is passes
