"""Masks of what is removed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.peers.drop_genomes import DropProblem


@given(st.integers(2, 9), st.integers(1, 2), st.integers(0, 500), st.data())
def test_every_mask_removes_the_same_number_before_and_after_mutation(length, masks, seed, data):
    removed = data.draw(st.integers(1, length - 1))
    problem = DropProblem(length, masks, removed, None)
    random = np.random.default_rng(seed)
    genomes = problem.first(5, random)
    assert len(set(genomes)) == len(genomes) >= 1
    for genome in genomes:
        for found in (genome, problem.mutate(genome, random)):
            assert set(found) <= {0, 1}
            assert [sum(part) for part in np.array(found).reshape(masks, length)] == [removed] * masks


def test_all_genomes_come_where_there_are_fewer_than_asked():
    assert len(DropProblem(4, 1, 1, None).first(64, np.random.default_rng(0))) == 4


def test_a_mutation_swaps_at_most_three_positions():
    problem = DropProblem(20, 2, 10, None)
    random = np.random.default_rng(0)
    parent = problem.first(1, random)[0]
    moved = [sum(a != b for a, b in zip(parent, problem.mutate(parent, random), strict=True)) for _ in range(200)]
    assert set(moved) <= {0, 2, 4, 6}
    assert {2, 4, 6} <= set(moved)


def test_the_number_of_swaps_is_the_smaller_of_two_draws_of_one_to_three():
    problem = DropProblem(40, 1, 20, None)
    random = np.random.default_rng(0)
    parent = problem.first(1, random)[0]
    swaps = [sum(a != b for a, b in zip(parent, problem.mutate(parent, random), strict=True)) // 2 for _ in range(4000)]
    # min(U{1..3}, U{1..3}): 5/9, 3/9, 1/9. One draw alone would give a third each; swaps seldom undo each other.
    assert [swaps.count(n) / 4000 for n in (1, 2, 3)] == pytest.approx([5 / 9, 3 / 9, 1 / 9], abs=0.04)


def test_a_minibatch_of_two_batches_is_averaged_over_tokens():
    problem = DropProblem(3, 1, 1, lambda genomes, windows: [float(windows.numel()) for _ in genomes])
    assert problem.measure([(1, 0, 0)], [torch.zeros(2, 4), torch.zeros(1, 2)]) == pytest.approx([(64 + 4) / 10])
