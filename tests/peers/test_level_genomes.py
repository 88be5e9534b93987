"""Levels as equal counts of weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.errors import RequestError
from unicuco_plugin.levels.exchange import Stitching
from unicuco_plugin.objectives.levelled import LevelEvaluator
from unicuco_plugin.objectives.room import Room
from unicuco_plugin.peers.level_genomes import Evaluators, LevelProblem, level_step, uniform_counts

SIZES = {"q": 1600, "k": 400, "up": 4800}


@pytest.mark.parametrize(("hidden", "step"), [(4096, 1_000_000), (2048, 250_000), (576, 19_775), (1, 1)])
def test_a_level_is_evopress_step_scaled_by_a_square_projection(hidden, step):
    assert level_step(hidden) == step


@given(st.floats(0.1, 0.9), st.integers(0, 1000))
def test_mutations_keep_the_sum_the_ranges_and_the_step(sparsity, seed):
    problem = LevelProblem(SIZES, uniform_counts(SIZES, sparsity), 100, None)
    random = np.random.default_rng(seed)
    genome = problem.first(5, random)[0]
    assert genome == (0, 0, 0)
    total = round(sparsity * 6800)
    for _ in range(30):
        child = problem.mutate(genome, random)
        assert sum(child) == 0
        assert 0 <= sum(abs(a - b) for a, b in zip(child, genome, strict=True)) <= 6
        plan = problem.plan(child)
        assert abs(sum(plan.values()) - total) <= 1
        assert all(0 <= plan[name] <= 0.95 * size for name, size in SIZES.items())
        assert all(abs(level) <= 8 for level in child)
        genome = child


def test_one_to_three_exchanges_are_made_and_one_most_often():
    # min(U{1..3}, U{1..3}) is 1 in five of nine cases, 2 in three, 3 in one.
    many = {f"l{i}": 10_000 for i in range(500)}
    problem = LevelProblem(many, uniform_counts(many, 0.5), 100, None)
    random = np.random.default_rng(0)
    sizes = [sum(map(abs, problem.mutate((0,) * 500, random))) // 2 for _ in range(900)]
    counts = np.bincount(sizes, minlength=4)
    assert counts[0] < 20
    assert counts[1:4] / 900 == pytest.approx([5 / 9, 3 / 9, 1 / 9], abs=0.06)


def test_a_step_larger_than_the_linears_is_refused():
    problem = LevelProblem({"q": 50}, {"q": 25}, 100, None)
    with pytest.raises(RequestError, match=r"^no linear can move by a level of 100 weights"):
        problem.mutate((0,), np.random.default_rng(0))


def test_genomes_are_measured_as_their_plans_on_windows_of_any_length(decoder, levels, windows):
    sizes = levels.sizes
    problem = LevelProblem(
        sizes,
        uniform_counts(sizes, 0.5),
        61,
        Evaluators(LevelEvaluator(Stitching(decoder, levels), windows[:1]), Room()),
    )
    genome = (2, -2) + (0,) * (len(sizes) - 2)
    batches = [windows[1:4], windows[4:5, :7]]
    for _ in range(2):
        found = problem.measure([genome, (0,) * len(sizes)], batches)
        for value, plan in zip(found, (problem.plan(genome), problem.base), strict=True):
            alone = [LevelEvaluator(Stitching(decoder, levels), batch).evaluate([plan])[0].value for batch in batches]
            assert value == pytest.approx((alone[0] * 48 + alone[1] * 7) / 55, rel=1e-6)
