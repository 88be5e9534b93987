"""The counts that the toolkit's passes can make, held to the passes themselves."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from llmcompressor.modifiers.pruning.sparsegpt.sgpt_sparsify import sparsify_weight
from llmcompressor.modifiers.pruning.wanda import wanda_sparsify

from unicuco_plugin.modifiers.carriers.engine_rounding import round_plan, tolerance

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 300))
BLOCK = 16  # narrower than the default, so that small layers have many blocks


def sparse_gpt(sparsity=0.5):
    return SparseGPTModifier(sparsity=sparsity, block_size=BLOCK)


def made_by_sparse_gpt(sparsity, rows, columns):
    layer = torch.nn.Linear(columns, rows, bias=False)
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(rows * 1000 + columns))
    hessians = {layer: torch.eye(columns)}
    _, weight = sparsify_weight(layer, hessians, sparsity, 0, 0, BLOCK, 0.01, False)
    return int((weight == 0).sum())


def made_by_wanda(sparsity, rows, columns):
    layer = torch.nn.Linear(columns, rows, bias=False)
    weight = wanda_sparsify.sparsify_weight(layer, {layer: torch.ones(columns)}, sparsity, 0, 0)
    return int((weight == 0).sum())


@pytest.mark.slow
@hypothesis_settings(max_examples=60)
@given(SHAPES, st.floats(0, 1))
@pytest.mark.parametrize(
    ("follower", "make"),
    [(sparse_gpt(), made_by_sparse_gpt), (WandaPruningModifier(sparsity=0.5), made_by_wanda)],
    ids=["sparsegpt", "wanda"],
)
def test_the_toolkit_makes_the_count_that_is_foretold(follower, make, shape, share):
    rows, columns = shape
    setting = round_plan(follower, round(share * rows * columns), rows, columns)
    if setting.sparsity == 0.0:
        assert setting.count == 0
    else:
        assert make(setting.sparsity, rows, columns) == setting.count


@given(SHAPES, st.floats(0, 1))
def test_no_sparsity_brings_sparse_gpt_nearer_to_the_plan(shape, share):
    rows, columns = shape
    count = round(share * rows * columns)
    blocks = [rows * min(BLOCK, columns - start) for start in range(0, columns, BLOCK)]
    # Brute force: one sparsity from inside every step of every block.
    edges = sorted({step / size for size in set(blocks) for step in range(size + 1)})
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    possible = [0, *(sum(int(size * middle) + 1 for size in blocks) for middle in middles)]
    found = round_plan(sparse_gpt(), count, rows, columns)
    assert abs(found.count - count) == min(abs(other - count) for other in possible)


@given(SHAPES, st.floats(0, 1))
def test_no_count_of_whole_rows_is_nearer_than_wandas(shape, share):
    rows, columns = shape
    count = round(share * rows * columns)
    found = round_plan(WandaPruningModifier(sparsity=0.5), count, rows, columns)
    assert abs(found.count - count) == min(abs(each * rows - count) for each in range(columns + 1))


@given(SHAPES, st.floats(0, 1))
@pytest.mark.parametrize("follower", [sparse_gpt(), WandaPruningModifier(sparsity=0.5)], ids=["sparsegpt", "wanda"])
def test_rounding_takes_at_most_half_of_the_tolerance(follower, shape, share):
    rows, columns = shape
    count = round(share * rows * columns)
    assert abs(round_plan(follower, count, rows, columns).count - count) <= tolerance(follower, rows, columns) / 2 + 0.5


@pytest.mark.parametrize(("rows", "columns"), [(576, 576), (192, 576), (1536, 576), (576, 1536), (14336, 4096)])
def test_on_real_shapes_every_count_of_sparse_gpt_is_within_one_in_a_hundred_thousand_of_the_plan(rows, columns):
    follower = SparseGPTModifier(sparsity=0.5)
    for count in range(0, rows * columns, rows * columns // 97):
        assert abs(round_plan(follower, count, rows, columns).count - count) / (rows * columns) <= 3e-5


def test_sparse_gpt_never_gets_the_one_that_it_fails_on():
    assert 0.99 < round_plan(sparse_gpt(), 64 * 32, 64, 32).sparsity < 1.0
    assert round_plan(sparse_gpt(), 64 * 32, 64, 32).count == 64 * 32
