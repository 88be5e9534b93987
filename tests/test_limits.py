"""Limits on parameters and bytes where shares come in steps, on the packaged structured profile."""

import itertools

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unicuco_plugin.answering import load_profile
from unicuco_plugin.costs.model import TableCosts
from unicuco_plugin.costs.table import CostTable
from unicuco_plugin.errors import RequestError
from unicuco_plugin.limits import Limits
from unicuco_plugin.policy.contest import Candidate
from unicuco_plugin.request import Request
from unicuco_plugin.schemes import parse_scheme
from unicuco_plugin.spaces.depth import UnevenBlocks
from unicuco_plugin.spaces.precision import PrecisionSpace
from unicuco_plugin.spaces.structured import StructuredSpace

PROFILE = load_profile("smollm2-135m-instruct-structured")
# 32 neurons of an MLP: three rows or columns of 576 each; two bytes a parameter.
STEP = 32 * 3 * 576


def test_the_finest_step_is_thirty_two_neurons():
    assert isinstance(PROFILE.search_space, StructuredSpace)
    assert (1 - PROFILE.search_space.most) * PROFILE.search_space.params.sum().item() == pytest.approx(STEP)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.floats(0.001, 0.99))
def test_a_share_is_reached_and_exceeded_by_less_than_a_step(share):
    over = PROFILE.answer(sparsity=share).sparsity - share
    assert -1e-12 <= over * PROFILE.search_space.params.sum().item() < STEP


@pytest.mark.parametrize("share", [0.8867240653004353, 0.3428977101469562])
def test_moves_after_the_descent_do_not_add_up_to_more_than_a_step(share):
    test_a_share_is_reached_and_exceeded_by_less_than_a_step.hypothesis.inner_test(share)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.integers(30_000_000, 134_000_000))
def test_parameters_are_never_exceeded_and_missed_by_two_steps_at_most(limit):
    assert 0 <= limit - PROFILE.answer(max_params=limit).params <= 2 * STEP


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.integers(60_000_000, 265_000_000))
def test_bytes_are_never_exceeded_and_missed_by_two_steps_at_most(limit):
    assert 0 <= limit - PROFILE.answer(max_bytes=limit).bytes <= 2 * 2 * STEP


@pytest.mark.slow
@pytest.mark.parametrize("limit", [193_831_903, 262_844_574])
def test_an_excess_of_a_few_bytes_is_corrected_too(limit):
    # A few hundred bytes of a header more than asked: far less than a step, which corrections have to grow to.
    assert 0 <= limit - PROFILE.answer(max_bytes=limit).bytes <= 2 * 2 * STEP


def test_the_least_that_can_be_asked_has_one_step_left():
    with pytest.raises(
        RequestError, match=r"max_params must be at least \d+ for this profile, with 99\.95% of its units"
    ):
        PROFILE.answer(max_params=100)
    least = PROFILE.answer(sparsity=PROFILE.search_space.most).params
    assert PROFILE.answer(max_params=least).params == least


def test_a_limit_on_a_cost_that_nobody_counts_is_refused_and_says_what_is_known():
    space = UnevenBlocks(("a.0", "a.1"), (3, 4))

    class Weights(TableCosts):
        names = ("kept", "params")

    table = CostTable(unit_params=(3, 4), unit_bytes=(6, 8), dtype="bfloat16", total_params=8, total_bytes=16)
    limits = Limits(space, Random(space, 0), Weights(space.units, table, physical=True), lambda _: 0.0)
    assert limits.budget_of(Request.of(max_params=5)) == pytest.approx(3 / 7)
    with pytest.raises(
        RequestError, match=r"^max_bytes cannot be asked of this profile, which knows kept, params of a"
    ):
        limits.budget_of(Request.of(max_bytes=5))


def test_limits_that_no_strategy_keeps_together_name_what_each_would_have_to_be():
    space = UnevenBlocks(("a.0", "a.1", "a.2"), (10, 21, 30))

    class Odd(TableCosts):  # whose bytes rise where parameters fall
        def of(self, name, x):
            return 100 - super().of("params", x) if name == "bytes" else super().of(name, x)

    table = CostTable(
        unit_params=(10, 21, 30), unit_bytes=(20, 42, 60), dtype="bfloat16", total_params=70, total_bytes=140
    )
    limits = Limits(space, Random(space, 0), Odd(space.units, table, physical=True), lambda _: 0.0)
    with pytest.raises(RequestError) as caught:
        limits.budget_of(Request.of(max_params=25, max_bytes=65))
    assert str(caught.value) == (
        "max_params and max_bytes exclude each other in this profile: with all units but one removed, give "
        "max_bytes 81 (16 more)"
    )


@pytest.mark.slow
@pytest.mark.parametrize("limit", [80_000_000, 120_000_000])
def test_a_limit_on_bytes_and_one_on_parameters_both_hold_where_shares_come_in_steps(limit):
    strategy = PROFILE.answer(max_params=limit, max_bytes=2 * limit + 10**6, sparsity=0.05)
    assert strategy.params <= limit
    assert strategy.bytes <= 2 * limit + 10**6
    assert limit - strategy.params <= 2 * STEP


@pytest.mark.slow
def test_a_load_that_limits_nothing_only_shows_memory():
    plain, shown = PROFILE.answer(sparsity=0.02), PROFILE.answer(sparsity=0.02, context=8192, batch=8)
    assert (shown.units, shown.divergence) == (plain.units, plain.divergence)
    assert (plain.memory, shown.memory.weights) == (None, plain.bytes)


class Random:
    """A contest that any set at the budget may win."""

    def __init__(self, space, seed):
        self._space, self._generator = space, torch.Generator().manual_seed(seed)

    def best(self, budgets):
        rows = [self._space.random(1, budget, self._generator)[0] for budget in budgets]
        return [Candidate(row, "archive", 0.0, 0.0, self._space.key(row)) for row in rows]


@st.composite
def tables(draw):
    """Blocks of unequal sizes, with bytes of their own and, in some, blocks that generation needs."""
    sizes = tuple(draw(st.lists(st.integers(20, 60), min_size=3, max_size=7)))
    extra = draw(st.lists(st.integers(0, 9), min_size=len(sizes), max_size=len(sizes)))
    needed = tuple(sorted(draw(st.sets(st.integers(0, len(sizes) - 1), max_size=2))))
    space = UnevenBlocks(tuple(f"model.layers.{i}" for i in range(len(sizes))), sizes, (needed,) if needed else ())
    table = CostTable(
        unit_params=sizes, unit_bytes=tuple(2 * n + e for n, e in zip(sizes, extra, strict=True)), dtype="bfloat16",
        total_params=sum(sizes) + 10, total_bytes=2 * sum(sizes) + sum(extra) + 20,
    )  # fmt: skip
    return space, table


@pytest.mark.slow
# Three of four blocks are more than all but the one that is needed: the most that can go is no listed budget.
@example(
    (
        UnevenBlocks(tuple("abcd"), (20, 21, 20, 21), ((1,),)),
        CostTable(
            unit_params=(20, 21, 20, 21),
            unit_bytes=(40, 42, 40, 42),
            dtype="bfloat16",
            total_params=92,
            total_bytes=184,
        ),
    ),
    "max_params",
    0.5,
    0,
)
@given(tables(), st.sampled_from(["max_params", "max_bytes"]), st.floats(0.01, 0.99), st.integers(0, 2**30))
def test_limits_on_uneven_blocks_come_down_to_the_least_that_keeps_them_by_enumeration(case, kind, share, seed):
    space, table = case
    costs = TableCosts(space.units, table, physical=True)
    column = ("max_params", "max_bytes").index(kind)
    limits = Limits(space, Random(space, seed), costs, lambda _: 0.0)
    limit = max(1, round(share * (table.total_params, table.total_bytes)[column]))
    groups = space.needed or (range(len(space.units)),)
    rows = [x for x in itertools.product((0.0, 1.0), repeat=len(space.units)) if any(x)]
    rows = [x for x in rows if not any(all(x[i] for i in group) for group in groups)]
    found = {}  # parameters that go -> what each such set leaves
    for x in rows:
        gone = sum(n for n, taken in zip(space.unit_params, x, strict=True) if taken)
        weights = (table.unit_params, table.unit_bytes)[column]
        left = (table.total_params, table.total_bytes)[column]
        found.setdefault(gone, []).append(left - sum(n for n, taken in zip(weights, x, strict=True) if taken))
    try:
        budget = limits.budget_of(Request.of(**{kind: limit}))
    except RequestError:
        assert max(found[max(found)]) > limit
        return
    gone = round(budget * sum(space.unit_params))
    assert min(found[gone]) <= limit
    # Every smaller total has a set that is too large, else it would have been taken.
    assert all(max(found[total]) > limit for total in found if total < gone)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_bytes_of_schemes_are_never_exceeded_and_missed_by_less_than_a_step_in_any_dtype(dtype):
    width, sizes = getattr(torch, dtype).itemsize, (552960, 331776, 1769472, 884736) * 6
    schemes = [parse_scheme(f"W{bits}A16:g64") for bits in (8, 6, 5, 4, 3)]
    choices = tuple(
        (
            ("dense", 16.0, n * width),
            *((one.name, one.bits_per_weight(64), one.stored_bytes(n // 64, 64, width)) for one in schemes),
        )
        for n in sizes
    )
    dense = tuple(n * width for n in sizes)
    table = CostTable(
        unit_params=sizes, unit_bytes=dense, choices=choices, dtype=dtype, total_params=sum(sizes),
        total_bytes=sum(dense) + 1000,
    )  # fmt: skip
    space = PrecisionSpace(tuple(f"model.layers.{i // 4}.{i % 4}" for i in range(len(sizes))), sizes, choices)
    costs = TableCosts(space.units, table, physical=True)
    limits = Limits(space, Even(space), costs, lambda _: 0.0)

    def left(budget):
        return int(costs.of("bytes", Even(space).best([budget])[0].x[None]))

    # From dense to eight bits is the largest step of a unit.
    step = max(row[0][2] - row[1][2] for row in choices)
    least = left(space.most)
    for limit in range(least, table.total_bytes, (table.total_bytes - least) // 40):
        budget = limits.budget_of(Request.of(max_bytes=limit))
        assert 0 <= limit - left(budget) < step


class Even:
    """A contest that equal scores win."""

    def __init__(self, space):
        self._space = space

    def best(self, budgets):
        rows = self._space.project(
            torch.zeros(len(budgets), len(self._space.units), dtype=torch.float64), torch.tensor(budgets)
        )
        return [Candidate(row, "archive", 0.0, 0.0, self._space.key(row)) for row in rows]
