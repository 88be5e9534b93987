"""Bits as places on ladders, exchanged between units of equal size."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.errors import RequestError
from unicuco_plugin.peers.bit_genomes import BitProblem
from unicuco_plugin.schemes import DENSE_BITS
from unicuco_plugin.spaces.precision import PrecisionSpace

SIZES = (960, 576, 960, 576, 960, 576, 1536)
CHOICES = tuple((name, bits, 1) for name, bits in (("dense", 16.0), ("W8A16", 8.0), ("W4A16", 4.0), ("W3A16", 3.0)))
SPACE = PrecisionSpace(tuple(f"l{i}" for i in range(7)), SIZES, (CHOICES,) * 7)


def bits(genome):
    return sum(n * CHOICES[place][1] for n, place in zip(SIZES, genome, strict=True))


def problem(mean, space=SPACE):
    return BitProblem(space, 1.0 - mean / DENSE_BITS, lambda plans, _: [float(len(plan)) for plan in plans])


@given(mean=st.floats(3.0, 15.0), seed=st.integers(0, 1000))
def test_first_genomes_meet_the_budget_and_nobody_can_take_a_step_more(mean, seed):
    for genome in problem(mean).first(4, np.random.default_rng(seed)):
        assert bits(genome) <= mean * sum(SIZES) + 1e-6
        up = [n * (CHOICES[place - 1][1] - CHOICES[place][1]) for n, place in zip(SIZES, genome, strict=True) if place]
        assert all(bits(genome) + step > mean * sum(SIZES) - 1e-6 for step in up)


def test_a_budget_that_is_one_scheme_starts_from_it_alone():
    assert problem(4.0).first(8, np.random.default_rng(0)) == [(2,) * 7]
    assert len(problem(3.7).first(8, np.random.default_rng(0))) == 8


@given(mean=st.floats(3.2, 9.0), seed=st.integers(0, 1000))
def test_exchanges_keep_the_bits_and_are_between_units_of_equal_size(mean, seed):
    random = np.random.default_rng(seed)
    [genome] = problem(mean).first(1, random)
    for _ in range(10):
        try:
            child = problem(mean).mutate(genome, random)
        except RequestError:
            pairs = itertools.permutations(range(7), 2)
            possible = [
                (down, up)
                for down, up in pairs
                if SIZES[down] == SIZES[up]
                and genome[up]
                and genome[down] < 3
                and CHOICES[genome[up] - 1][1] - CHOICES[genome[up]][1]
                == CHOICES[genome[down]][1] - CHOICES[genome[down] + 1][1]
            ]
            # None from here, or none after a first exchange, which only a small space does.
            assert not possible or len(possible) < 4
            return
        for size in set(SIZES):
            own = [sum(CHOICES[g[i]][1] for i, n in enumerate(SIZES) if n == size) for g in (genome, child)]
            assert own[0] == own[1]
        assert all(0 <= place <= 3 for place in child)
        assert sum(abs(a - b) for a, b in zip(genome, child, strict=True)) <= 6
        genome = child


def test_a_space_without_exchanges_is_refused():
    alone = PrecisionSpace(("a", "b"), (100, 200), (CHOICES,) * 2)
    with pytest.raises(RequestError, match=r"^evopress exchanges bits between units of equal size, and no two can at"):
        problem(4.0, alone).mutate((2, 2), np.random.default_rng(0))


def test_genomes_are_measured_as_their_schemes_on_every_batch():
    seen = []

    def divergences(plans, windows):
        seen.append((list(plans), windows.numel()))
        return [1.0 * windows.numel()] * len(plans)

    own = BitProblem(SPACE, 0.5, divergences)
    batches = [torch.zeros(2, 8, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long)]
    genome = (0, 1, 2, 3, 0, 0, 1)
    assert own.measure([genome], batches) == pytest.approx([(16 * 16 + 4 * 4) / 20])
    plan = {"l1": "W8A16", "l2": "W4A16", "l3": "W3A16", "l6": "W8A16"}
    assert seen == [([plan], 16), ([plan], 4)]
