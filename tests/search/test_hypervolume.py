import itertools
import time

import pytest
import torch
from botorch.utils.multi_objective.hypervolume import Hypervolume
from hypothesis import assume, given
from hypothesis import strategies as st

from unicuco_plugin.policy.scalarization import Scaling
from unicuco_plugin.search.hypervolume import (
    hypervolume,
    non_dominated,
    reference_point,
    scale_front,
    select_by_improvement,
)

# Few distinct values, so that ties, duplicates and points on or beyond the reference are common.
GRID = st.sampled_from([-1.5, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 2.0])
R = torch.tensor([1.0, 1.0], dtype=torch.float64)
UNIT = st.floats(-0.5, 2.0)


def pair(a, b):
    return torch.tensor([[a, b]], dtype=torch.float64)


def points(least=0, most=8, values=GRID):
    rows = st.lists(st.tuples(values, values), min_size=least, max_size=most)
    return rows.map(lambda rows: torch.tensor(rows, dtype=torch.float64).reshape(-1, 2))


def brute_hypervolume(F, r):
    # Every coordinate cuts the plane; count the cells whose upper corner some point dominates.
    inside = [(a, b) for a, b in F.tolist() if a < r[0] and b < r[1]]
    xs, ys = (sorted({p[i] for p in inside} | {float(r[i])}) for i in (0, 1))
    return sum(
        (right - left) * (top - bottom)
        for left, right in itertools.pairwise(xs)
        for bottom, top in itertools.pairwise(ys)
        if any(a <= left and b <= bottom for a, b in inside)
    )


@given(F=points())
def test_a_point_is_marked_unless_another_is_no_worse_in_both_and_better_in_one(F):
    expected = [not any(a2 <= a and b2 <= b and (a2 < a or b2 < b) for a2, b2 in F.tolist()) for a, b in F.tolist()]
    assert non_dominated(F).tolist() == expected


def test_duplicates_on_the_front_are_all_marked_also_beyond_botorchs_switch_to_a_loop():
    F = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]], dtype=torch.float64).repeat(400, 1)
    assert non_dominated(F).tolist() == [True, True, False] * 400


@given(F=points(values=st.one_of(GRID, st.floats(-2, 2))))
def test_hypervolume_equals_the_count_of_cells(F):
    assert hypervolume(F, R) == pytest.approx(brute_hypervolume(F, R), abs=1e-12)


@given(F=points(least=1))
def test_hypervolume_equals_botorchs(F):
    front = -F[non_dominated(F)]
    assert hypervolume(F, R) == pytest.approx(Hypervolume(ref_point=-R).compute(front), abs=1e-12)


def test_an_empty_front_has_no_hypervolume():
    assert hypervolume(torch.empty(0, 2, dtype=torch.float64), R) == 0.0


def test_points_on_or_outside_the_reference_add_nothing():
    assert hypervolume(torch.tensor([[1.0, -9.0], [-9.0, 1.5]], dtype=torch.float64), R) == 0.0


@given(F=points(least=1))
def test_the_reference_ignores_dominated_points_and_lies_a_tenth_beyond_the_nadir(F):
    front = F[non_dominated(F)]
    ideal, nadir = front.min(dim=0).values, front.max(dim=0).values
    worse = torch.cat([F, F + 100.0])
    torch.testing.assert_close(reference_point(worse), nadir + 0.1 * (nadir - ideal))


def test_no_reference_for_an_empty_front():
    with pytest.raises(ValueError, match=r"^F must hold at least one point, got shape \(0, 2\)$"):
        reference_point(torch.empty(0, 2, dtype=torch.float64))


@given(pool=points(), F=points(most=5), count=st.integers(0, 5))
def test_each_pick_gains_what_the_best_brute_force_pick_gains(pool, F, count):
    chosen = select_by_improvement(pool, F, R, count)
    areas = [brute_hypervolume(torch.cat([F, pool[chosen[:i]]]), R) for i in range(len(chosen) + 1)]
    gains = [after - before for before, after in itertools.pairwise(areas)]
    rest = areas[-1]
    for i, gain in enumerate(gains):
        best = max(brute_hypervolume(torch.cat([F, pool[chosen[:i]], row[None]]), R) for row in pool) - areas[i]
        assert gain == pytest.approx(best, abs=1e-12)
        assert gain > 0
    assert len(set(chosen)) == len(chosen) <= count
    if len(chosen) < count:  # it stopped early, so nothing left improves
        assert all(brute_hypervolume(torch.cat([F, pool[chosen], row[None]]), R) <= rest for row in pool)


def test_of_equal_candidates_the_first_is_chosen_and_only_once():
    pool = torch.tensor([[0.0, 0.0]] * 3, dtype=torch.float64)
    assert select_by_improvement(pool, torch.empty(0, 2, dtype=torch.float64), R, 3) == [0]


def test_candidates_already_on_the_front_or_outside_the_reference_are_never_chosen():
    F = torch.tensor([[0.1, 0.7], [0.3, 0.2]], dtype=torch.float64)
    pool = torch.cat([F, torch.tensor([[1.0, -5.0], [-5.0, 3.0], [0.4, 0.7]], dtype=torch.float64)])
    assert select_by_improvement(pool, F, R, 5) == []


def test_an_empty_pool_gives_no_choice():
    empty = torch.empty(0, 2, dtype=torch.float64)
    assert select_by_improvement(empty, empty, R, 4) == []


def test_the_papers_pool_takes_well_under_a_second_a_pick():
    generator = torch.Generator().manual_seed(0)
    x = torch.linspace(0.01, 0.99, 500, dtype=torch.float64)
    front = torch.stack([x, (1 - x) ** 2], dim=1)
    z = torch.rand(2240, dtype=torch.float64, generator=generator)
    pool = torch.stack([z, (1 - z) ** 2 - 0.1 * torch.rand(2240, dtype=torch.float64, generator=generator)], dim=1)
    started = time.process_time()
    assert len(select_by_improvement(pool, front, R, 10)) == 10
    assert time.process_time() - started < 5.0  # 0.3 s here; the bound leaves room for a busy machine


def test_a_scale_is_not_stretched_by_dominated_points():
    F = torch.tensor([[1.0, 0.0], [0.4, 2.0], [0.7, 0.5], [0.9, 60.0]], dtype=torch.float64)
    assert scale_front(F) == Scaling(ideal=(0.4, 0.0), nadir=(1.0, 2.0))


@given(a=UNIT, b=UNIT)
def test_from_a_single_point_both_objectives_keep_their_unit(a, b):
    scaling = scale_front(pair(a, b))
    assert scaling == Scaling(ideal=(a, b), nadir=(a + 1.0, b + 1.0))


@given(rows=st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=6))
def test_a_scale_bounds_every_point_of_the_front(rows):
    F = torch.tensor(rows, dtype=torch.float64)
    assume(bool(((F - F[0]).abs().amax(dim=0) > 1e-3).all()))
    scaled = scale_front(F).scale(F)
    assert (scaled > -1e-9).all()


def test_no_scaling_from_an_empty_front():
    with pytest.raises(ValueError, match=r"^F must hold at least one point, got shape \(0, 2\)$"):
        scale_front(torch.empty(0, 2, dtype=torch.float64))
