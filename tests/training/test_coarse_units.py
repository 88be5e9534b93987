"""Whole blocks as larger units than attentions and MLPs."""

import torch

from unicuco_plugin.spaces.sublayer import SublayerSpace
from unicuco_plugin.training.coarse_units import whole_blocks


def space_of(*sizes):
    names = [f"model.layers.{i}.{half}" for i in range(len(sizes)) for half in ("self_attn", "mlp")]
    return SublayerSpace(tuple(names), tuple(n for pair in sizes for n in pair))


def test_a_block_weighs_what_its_sublayers_weigh_and_takes_both():
    space = space_of((10, 30), (10, 30), (10, 27))
    coarse = whole_blocks(space)
    assert coarse.space.units == ("model.layers.0", "model.layers.1", "model.layers.2")
    assert coarse.space.unit_params == (40, 40, 37)
    x = torch.tensor([[0.0, 1, 1], [1, 0, 0]], dtype=torch.float64)
    assert coarse.expand(x).tolist() == [[0, 0, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]]
    torch.testing.assert_close(space.sparsity(coarse.expand(x)), coarse.space.sparsity(x))


def test_blocks_of_too_many_sizes_are_not_searched_first():
    assert whole_blocks(space_of((1, 1), (1, 2), (2, 2), (2, 3))) is None


def test_one_block_alone_is_not_searched_first():
    assert whole_blocks(space_of((10, 30))) is None
