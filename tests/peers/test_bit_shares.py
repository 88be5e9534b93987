"""Peers of bits: exact budgets, scores by a second route, and knapsacks against enumeration."""

import itertools

import pytest
import torch

from unicuco_plugin.errors import JournalError, RequestError
from unicuco_plugin.objectives.units import UnitsEvaluator
from unicuco_plugin.peers.bit_shares import Knapsack, KnapsackNarrow, KnapsackWide, UniformBits
from unicuco_plugin.peers.bits import bits_problem
from unicuco_plugin.peers.peer import PeerRequest
from unicuco_plugin.plugins.manager import make_peer
from unicuco_plugin.schemes import DENSE_BITS

KNAPSACKS = ("knapsack", "knapsack_wide", "knapsack_narrow", "gradient_knapsack")


@pytest.mark.parametrize("name", ["uniform_bits", *KNAPSACKS])
@pytest.mark.parametrize("bits", [3.6, 4.25, 6.0, 11.0])
def test_budgets_are_never_exceeded_and_missed_by_less_than_a_step(name, bits, ask_bits):
    request = ask_bits(bits)
    found = make_peer(name)(request)
    space = bits_problem(request).space
    x = space.from_units(found.units)
    n = torch.tensor(space.unit_params, dtype=torch.float64)
    total = n.sum().item()
    used = (DENSE_BITS * (1.0 - x) @ n).item()
    assert used <= bits * total + 1e-6
    assert found.sparsity == pytest.approx(1.0 - used / total / DENSE_BITS, abs=1e-12)
    steps = [
        size * (row[place - 1][1] - row[place][1])
        for size, row, place in zip(space.unit_params, space.choices, space.places(x).tolist(), strict=True)
        if place
    ]
    if "scheme" not in found.details:
        assert bits * total - used < min(steps)
    assert found.space == "precision"


@pytest.mark.parametrize("kind", [Knapsack, KnapsackWide, KnapsackNarrow])
@pytest.mark.parametrize("bits", [3.6, 5.0, 9.0])
def test_a_knapsack_has_the_least_sum_of_costs_of_all_strategies(kind, bits, ask_bits):
    request = ask_bits(bits)
    found = kind()(request)
    space = bits_problem(request).space
    costs = torch.tensor(found.details["costs"], dtype=torch.float64)
    ways = torch.tensor(list(itertools.product(range(4), repeat=len(space.units))))
    row = torch.tensor(
        [[n * choice[1] for choice in own] for n, own in zip(space.unit_params, space.choices, strict=True)]
    )
    used = row.double().gather(1, ways.T).sum(0)
    sums = costs.gather(1, ways.T).sum(0)
    best = sums[used <= bits * sum(space.unit_params) + 1e-6].min()
    own = space.places(space.from_units(found.units))
    assert costs.gather(1, own[:, None]).sum().item() == pytest.approx(best.item(), rel=1e-9)


def test_costs_are_divergences_with_one_unit_at_a_time_in_every_scheme(ask_bits, small, schemes):
    request = ask_bits(5.0)
    found = Knapsack()(request)
    space = bits_problem(request).space
    evaluator = UnitsEvaluator(small, "precision", request.windows, levels=schemes)
    for unit, row, costs in zip(space.units, space.choices, found.details["costs"], strict=True):
        measured = evaluator.evaluate([{unit: name} for name, *_ in row[1:]])
        assert costs == [0.0, *(pytest.approx(one.value, rel=1e-9) for one in measured)]
    # All units alike, and each alone in three schemes.
    assert found.tokens == (3 + 3 * len(space.units)) * request.windows.numel()


@pytest.mark.parametrize(("kind", "point"), [(KnapsackWide, 0), (KnapsackNarrow, 1)])
def test_harms_and_gains_are_measured_where_all_others_have_the_other_scheme(kind, point, ask_bits, small, schemes):
    request = ask_bits(5.0)
    found = kind()(request)
    space = bits_problem(request).space
    evaluator = UnitsEvaluator(small, "precision", request.windows, levels=schemes)
    pair = ("W4A16:channel", "W3A16:channel")  # around half a nat, all units alike
    [stand] = evaluator.evaluate([dict.fromkeys(space.units, pair[point])])
    harms = []
    for unit in space.units:
        [alone] = evaluator.evaluate([dict.fromkeys(space.units, pair[point]) | {unit: pair[1 - point]}])
        harms.append((alone.value - stand.value) * (1 - 2 * point))
    least = 0.05 * torch.tensor(harms).double().median().item()
    for harm, row, unit, costs in zip(harms, space.choices, space.units, found.details["costs"], strict=True):
        places = [name for name, *_ in row]
        wide, narrow = (costs[places.index(name)] for name in pair)
        assert narrow - wide == pytest.approx(max(harm, least), rel=1e-6)
        lost = [sum(schemes.loss(linear, name) for linear in bits_problem(request).units[unit]) for name in places[1:]]
        assert costs[1] / costs[2] == pytest.approx(lost[0] / lost[1], rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KNAPSACKS, "auto_scheme"])
def test_scores_are_found_once_for_all_budgets(name, ask_bits, tmp_path, monkeypatch):
    journal = tmp_path / "steps.sqlite"
    first = make_peer(name)(ask_bits(5.0, journal=journal))

    def fail(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(UnitsEvaluator, "evaluate", fail)
    for place in ("bit_shares.output_changes", "auto_scheme._pass"):
        monkeypatch.setattr(f"unicuco_plugin.peers.{place}", fail)
    again = make_peer(name)(ask_bits(5.0, journal=journal))
    assert (again.units, again.tokens) == (first.units, first.tokens)
    other = make_peer(name)(ask_bits(9.0, journal=journal))
    assert other.sparsity < first.sparsity
    with pytest.raises(JournalError):
        make_peer("knapsack" if name != "knapsack" else "knapsack_wide")(ask_bits(5.0, journal=journal))


def test_a_knapsack_that_was_killed_goes_on(ask_bits, tmp_path, monkeypatch):
    journal = tmp_path / "steps.sqlite"
    unbroken = Knapsack()(ask_bits(5.0))
    measure, calls = UnitsEvaluator.evaluate, []

    def killed(self, *arguments):
        calls.append(len(arguments[0]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(self, *arguments)

    monkeypatch.setattr(UnitsEvaluator, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        Knapsack()(ask_bits(5.0, journal=journal))
    found = Knapsack()(ask_bits(5.0, journal=journal))
    assert (found.units, found.tokens, found.details) == (unbroken.units, unbroken.tokens, unbroken.details)
    assert sum(calls) == 3 + 4 * 8  # what was cut short is measured again, nothing else


def test_uniform_bits_are_one_scheme_where_one_spends_the_budget_and_else_two_neighbours(ask_bits):
    exact = UniformBits()(ask_bits(4.5))  # four bits and a scale of a row of 16 or 48 inputs
    assert (set(exact.units.values()), exact.tokens) == ({"W4A16:channel"}, 0)
    between = UniformBits()(ask_bits(5.5))
    assert set(between.units.values()) == {"W4A16:channel", "W8A16:channel"}


def test_a_database_of_schemes_and_a_budget_within_reach_are_needed(ask, ask_bits, small, windows):
    for request in (ask(0.7), PeerRequest(small, windows, 0.7)):
        with pytest.raises(RequestError, match=r"^strategies of bits are made from a database of schemes: unicuco"):
            make_peer("uniform_bits")(request)
    ran = []
    for name in ("uniform_bits", *KNAPSACKS, "auto_scheme", "evopress"):
        with pytest.raises(RequestError, match=r"^bits must be at least 3\.\d+, the narrowest scheme of every unit"):
            make_peer(name)(ask_bits(3.0, progress=ran.append, space="precision"))
    assert ran == []
