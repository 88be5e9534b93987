"""Whole blocks as larger units than attentions and MLPs."""

import pytest
import torch

from unicuco_plugin.spaces.sublayer import SublayerSpace
from unicuco_plugin.training.block_groups import group_blocks


def space_of(*sizes):
    names = [f"model.layers.{i}.{half}" for i in range(len(sizes)) for half in ("self_attn", "mlp")]
    return SublayerSpace(tuple(names), tuple(n for pair in sizes for n in pair))


def test_a_block_weighs_what_its_sublayers_weigh_and_takes_both():
    space = space_of((10, 30), (10, 30), (10, 27))
    groups = group_blocks(space)
    assert groups.space.units == ("model.layers.0", "model.layers.1", "model.layers.2")
    assert groups.space.unit_params == (40, 40, 37)
    x = torch.tensor([[0.0, 1, 1], [1, 0, 0]], dtype=torch.float64)
    assert groups.expand(x).tolist() == [[0, 0, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]]
    torch.testing.assert_close(space.sparsity(groups.expand(x)), groups.space.sparsity(x))


def test_blocks_of_many_sizes_are_searched_first_too():
    groups = group_blocks(space_of((1, 1), (1, 2), (2, 2), (2, 3)))
    assert groups.space.unit_params == (2, 3, 4, 5)


def test_what_generation_needs_of_units_it_needs_of_their_blocks():
    space = space_of((10, 30), (10, 30), (10, 27))
    bound = SublayerSpace(space.unit_names, space.unit_params, ((2, 3),))
    assert group_blocks(bound).space.needed == ((1,),)


@pytest.mark.parametrize("sizes", [((10, 30),), ((10, 30), (10, 27))])
def test_one_or_two_blocks_are_not_searched_first(sizes):
    assert group_blocks(space_of(*sizes)) is None
