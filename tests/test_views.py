"""Fronts and ends under a load: whatever lies between two ends has an answer, in whichever race it is met."""

import pytest
import torch
from device_tables import made_table

from unicuco_plugin.answering import Profile
from unicuco_plugin.errors import RequestError
from unicuco_plugin.profile import find_profile, read_profile
from unicuco_plugin.quantities import Load
from unicuco_plugin.request import LIMITS, LOADED, Request

READ = {space: read_profile(find_profile(f"smollm2-135m-instruct-{space}")) for space in ("depth", "structured")}
TABLE = made_table(READ["depth"][0].model.fingerprint)
DEPTH, STRUCTURED = (Profile(*READ[space], TABLE) for space in ("depth", "structured"))
LOAD = Load(200, 2, phase="prefill")
# Of those that are priced by time one has to do: their races take seconds.
CASES = [(DEPTH, kind, 12) for kind in LOADED] + [
    pytest.param(STRUCTURED, kind, 3, marks=pytest.mark.slow) for kind in ("max_memory", "max_latency")
]


def asking(kind, cost):
    value = 1.0 / cost if LIMITS[kind].inverse else LIMITS[kind].number(cost)
    return Request.of(**{kind: value}, **LOAD.to_fields(phase=LIMITS[kind].inverse))


def cost_of(kind, strategy):
    if kind == "max_memory":
        return strategy.memory.total
    latency = strategy.latency
    return latency.decode if kind == "max_latency" else latency.prefill / latency.dense_prefill


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "kind", "count"), CASES, ids=lambda value: getattr(value, "space", value))
def test_every_limit_between_both_ends_has_an_answer_and_none_below_has(profile, kind, count):
    least, most = profile.ends(LIMITS[kind].cost, LOAD)
    costs = torch.linspace(least, most, count, dtype=torch.float64).tolist()
    costs[0], costs[-1] = least, most  # to the last bit
    answers = profile.answer_many([asking(kind, cost) for cost in costs])
    assert all(cost_of(kind, one) <= cost + 1e-9 * cost for one, cost in zip(answers, costs, strict=True))
    assert cost_of(kind, answers[0]) < cost_of(kind, answers[-1])
    with pytest.raises(RequestError, match=f"^{kind} must be "):
        profile.answer(asking(kind, least - max(1, least // 100) if kind == "max_memory" else 0.99 * least))


def test_a_front_under_a_load_is_the_same_one_and_says_what_a_server_needs():
    plain, loaded = DEPTH.front(), DEPTH.front(LOAD)
    assert [one.units for one in loaded] == [one.units for one in plain]
    for one in (loaded[0], loaded[-1]):
        asked = DEPTH.answer(sparsity=one.request.sparsity, context=200, batch=2)
        assert (one.memory, one.latency, one.request) == (asked.memory, asked.latency, asked.request)
    assert DEPTH.front(LOAD, "memory") == loaded  # units that go whole are not priced


@pytest.mark.slow  # for a race of its own
def test_where_units_are_priced_a_cost_has_a_front_of_its_own_between_its_ends():
    front = STRUCTURED.front(LOAD, "memory")
    assert [one.units for one in front] != [one.units for one in STRUCTURED.front(LOAD)]
    totals = [one.memory.total for one in front]
    assert totals == sorted(totals, reverse=True)
    least, most = STRUCTURED.ends("memory", LOAD)
    assert totals[0] == most and least < totals[-1]
    assert [one.request.sparsity for one in front] == pytest.approx([one.sparsity for one in front])


def test_what_is_priced_alike_is_one_race():
    views = Profile(*READ["structured"], TABLE)._views
    asked = [
        views.of(Request.of(**fields, context=200)).contest
        for fields in ({"max_latency": 90.0}, {"min_speedup": 1.2}, {"min_speedup": 1.2, "phase": "prefill"})
    ]
    assert asked[0] is asked[1]
    assert asked[0] is not asked[2]


@pytest.mark.parametrize(
    ("cost", "load", "message"),
    [
        ("latency", Load(8192), "context must be in 100 to 300, where the device table has times, got 8192"),
        ("time", Load(100, 9), "batch must be in 1 to 4, where the device table has times, got 9"),
    ],
)
def test_a_load_that_was_not_timed_is_refused(cost, load, message):
    for ask in (DEPTH.ends, lambda cost, load: DEPTH.front(load, cost)):
        with pytest.raises(RequestError, match=message):
            ask(cost, load)


def test_what_nobody_timed_is_refused_in_every_way():
    untimed = Profile(*READ["depth"])
    for ask in (untimed.ends, lambda cost, load: untimed.front(load, cost)):
        with pytest.raises(
            RequestError, match="max_latency cannot be asked of this profile: it needs times of the device"
        ):
            ask("latency", LOAD)
    assert untimed.front(LOAD)[0].latency is None
