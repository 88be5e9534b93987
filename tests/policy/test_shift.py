import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.policy.shift import Shift

PAIRS = st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(-1, 1)), min_size=3, max_size=9)


@given(pairs=PAIRS, at=st.floats(0, 1))
def test_it_is_the_mean_of_the_differences_weighted_by_how_near_they_are(pairs, at):
    shift = Shift.of(*zip(*pairs, strict=True))
    nearest = min((at - s) ** 2 for s, _ in pairs)
    weights = [math.exp(-((at - s) ** 2 - nearest) / 0.005) for s, _ in pairs]
    mean = math.fsum(w * d for w, (_, d) in zip(weights, pairs, strict=True)) / math.fsum(weights)
    assert shift.at(at)[0] == pytest.approx(mean, abs=1e-9)


@given(pairs=PAIRS, offset=st.floats(-2, 2), at=st.floats(0, 1))
def test_a_common_difference_moves_the_mean_and_not_the_deviation(pairs, offset, at):
    s, d = zip(*pairs, strict=True)
    mean, std = Shift.of(s, d).at(at)
    moved_mean, moved_std = Shift.of(s, [value + offset for value in d]).at(at)
    assert moved_mean == pytest.approx(mean + offset, abs=1e-9)
    assert moved_std == pytest.approx(std, abs=1e-9)


def test_the_deviation_is_how_far_neighbours_mislead_about_each_other():
    smooth = [(0.05 * i, 0.3 + 0.05 * i) for i in range(1, 20)]
    rough = [(s, d + 0.2 * (-1) ** i) for i, (s, d) in enumerate(smooth)]
    assert Shift.of(*zip(*smooth, strict=True)).at(0.5)[1] < 0.01
    assert Shift.of(*zip(*rough, strict=True)).at(0.5)[1] > 0.2


def test_an_outlier_at_the_end_says_nothing_of_the_middle():
    pairs = [(0.05 * i, 0.1) for i in range(1, 16)] + [(0.95, 0.9)]
    mean, std = Shift.of(*zip(*pairs, strict=True)).at(0.4)
    assert (mean, std) == (pytest.approx(0.1, abs=1e-6), pytest.approx(0.0, abs=1e-6))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_say_nothing_of_a_neighbourhood(count):
    assert Shift.of([0.2] * count, [0.1] * count) is None
