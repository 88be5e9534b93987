"""The cheapest choices against brute force."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.spaces import knapsack
from unicuco_plugin.spaces.knapsack import cheapest

lists = st.lists(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 50)), min_size=1, max_size=4), min_size=1, max_size=4
)


def tables(units):
    longest = max(map(len, units))
    costs = torch.full((len(units), longest), torch.inf, dtype=torch.float64)
    saved = torch.zeros(len(units), longest, dtype=torch.int64)
    for i, unit in enumerate(units):
        for j, (save, cost) in enumerate(unit):
            costs[i, j], saved[i, j] = cost, save
    return costs, saved


def brute_force(units, target):
    ways = [way for way in itertools.product(*units) if sum(save for save, _ in way) >= target]
    return min(sum(cost for _, cost in way) for way in ways)


def check(units, target, exact=True):
    costs, saved = tables(units)
    [places] = cheapest(costs, saved, [target])
    way = [unit[place] for unit, place in zip(units, places.tolist(), strict=True)]
    assert sum(save for save, _ in way) >= target
    if exact:
        assert sum(cost for _, cost in way) == brute_force(units, target)


@given(units=lists, share=st.floats(0, 1))
def test_choices_are_the_cheapest_that_reach_a_target(units, share):
    check(units, int(share * sum(max(save for save, _ in unit) for unit in units)))


def test_many_targets_are_met_together():
    units = [[(0, 0.0), (3, 1.0), (5, 4.0)], [(0, 0.0), (4, 1.5)]]
    costs, saved = tables(units)
    assert cheapest(costs, saved, [0, 3, 4, 5, 9]).tolist() == [[0, 0], [1, 0], [0, 1], [1, 1], [2, 1]]


@given(units=lists, share=st.floats(0, 0.5))
def test_a_target_is_met_where_savings_are_counted_coarsely(units, share):
    total = sum(max(save for save, _ in unit) for unit in units)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knapsack, "_MOST", 40)
        check(units, int(share * total), exact=False)
