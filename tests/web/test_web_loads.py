"""Fronts under a load over HTTP: what they offer can be asked, and they keep nobody else waiting for long."""

import asyncio
import threading

import pytest
from asgi import BITS, DEPTH, Client
from device_tables import made_table

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.profile import find_profile, read_profile, write_profile
from unicuco_plugin.quantities import Load
from unicuco_plugin.request import LOADED, Request
from unicuco_plugin.web import loads as module
from unicuco_plugin.web.answers import Answers, BusyError
from unicuco_plugin.web.library import Library, Served
from unicuco_plugin.web.loads import Fronts
from unicuco_plugin.web.offers import Offer, find_offer_under

FRONT, LOAD = f"/v1/profiles/{DEPTH}/front", Load(200, 2)


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """A service of two profiles with times of a device."""
    from unicuco_plugin.web.app import make_app

    table = tmp_path_factory.mktemp("device") / "t.json"
    made_table(load_profile(DEPTH).model.fingerprint).write(table)
    return Client(make_app([DEPTH, BITS], device_table=table))


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_what_a_front_offers_under_a_load_can_be_asked_from_end_to_end(timed, phase):
    data = timed.get(f"{FRONT}?context=200&batch=2&phase={phase}").json()
    assert data["load"] == {"context": 200, "batch": 2, "cache_dtype": None, "phase": phase}
    assert data["untold"] == {}
    assert set(LOADED) < set(data["offers"])
    for kind in LOADED:
        offer = Offer(**data["offers"][kind])
        for place in (0.0, 0.31, 1.0):
            beside = {"phase": phase} if kind == "min_speedup" else {}
            asked = {kind: offer.at(place, inverse=bool(beside)), "context": 200, "batch": 2, **beside}
            got = timed.ask({"profile": DEPTH, "request": asked})
            assert got.status_code == 200, got.text
            assert {"memory", "latency"} <= got.json().keys()


def test_its_strategies_are_those_of_the_profile_with_memory_and_times(timed):
    profile = Profile(*read_profile(find_profile(DEPTH)), made_table(load_profile(DEPTH).model.fingerprint))
    front = [strategy.to_dict() for strategy in profile.front(LOAD)]
    for cost in ("", "&cost=memory", "&cost=time"):
        assert timed.get(f"{FRONT}?context=200&batch=2{cost}").json()["front"] == front
    smaller = timed.get(f"{FRONT}?context=200&batch=2&cache_dtype=fp8").json()["front"]
    assert smaller[0]["memory"]["cache"] < front[0]["memory"]["cache"]


def test_what_cannot_be_told_is_said_and_the_rest_is_offered(timed):
    far = timed.get(f"{FRONT}?context=8192").json()
    assert "max_memory" in far["offers"] and "max_latency" not in far["offers"]
    assert far["untold"]["min_speedup"].startswith("context must be in 100 to 300, where the device table has times")
    assert "latency" not in far["front"][0]
    bits = timed.get(f"/v1/profiles/{BITS}/front?context=200").json()
    assert "max_memory" in bits["offers"] and set(bits["untold"]) == {"max_latency", "min_speedup"}
    refused = timed.get(f"/v1/profiles/{BITS}/front?context=200&cost=latency").json()
    assert (refused["code"], refused["field"]) == ("cannot-be-met", "context")


def test_a_profile_that_can_tell_nothing_refuses(tmp_path):
    from unicuco_plugin.web.app import make_app

    record, tensors = read_profile(find_profile(DEPTH))
    sizes = record.sizes.model_copy(update={"serving": None})
    write_profile(tmp_path / "old", record.model_copy(update={"sizes": sizes}), tensors)
    made_table(record.model.fingerprint).write(tmp_path / "t.json")
    alone = Client(make_app([tmp_path / "old"]))
    problem = alone.get("/v1/profiles/old/front?context=8192").json()
    assert (problem["status"], problem["code"], problem["field"]) == (422, "cannot-be-met", "context")
    assert problem["detail"].startswith("memory at context 8192 cannot be told by this profile")
    timed = Client(make_app([tmp_path / "old"], device_table=tmp_path / "t.json"))
    assert timed.get("/v1/profiles/old/front?context=200").json()["untold"].keys() == {"max_memory"}
    assert "where the device table has times" in timed.get("/v1/profiles/old/front?context=8192").json()["detail"]


@pytest.mark.parametrize(
    ("query", "field", "detail"),
    [
        ("context=0", "context", "context: Input should be greater than 0, got '0'"),
        ("context=x", "context", "context: Input should be a valid integer"),
        ("batch=8", "query", "batch needs context, the tokens of a sequence, such as 8192; got none"),
        ("cost=memory", "query", "cost needs context"),
        ("context=8&cost=bytes", "cost", "cost: Input should be 'memory', 'latency' or 'time', got 'bytes'"),
        ("context=8&phase=both", "phase", "phase: Input should be 'decode' or 'prefill', got 'both'"),
        ("context=8&context=9", "context", "context must be given once"),
        ("contxt=8", "contxt", "unknown field 'contxt'"),
    ],
)
def test_a_wrong_load_is_a_problem_with_field_rule_and_value(service, query, field, detail):
    got = service.get(f"{FRONT}?{query}")
    problem = got.json()
    assert (got.status_code, problem["code"], problem["field"]) == (422, "invalid-request", field)
    assert problem["detail"].removeprefix("query.").startswith(detail)


def test_openapi_has_every_field_of_a_load(service):
    parameters = service.get("/openapi.json").json()["paths"]["/v1/profiles/{name}/front"]["get"]["parameters"]
    assert {one["name"] for one in parameters} == {"name", "context", "batch", "cache_dtype", "phase", "cost"}


def test_profiles_say_which_loads_were_timed(timed):
    found = {one["name"]: one for one in timed.get("/v1/profiles").json()["profiles"]}
    times = {"device": "a card", "dtype": "float32", "context": [100, 300], "batch": [1, 4]}
    assert found[DEPTH]["times"] == times
    assert "--device-table device.json" in found[DEPTH]["timed_templates"]["command"]
    assert not {"times", "timed_templates"} & found[BITS].keys()


@pytest.fixture(scope="module")
def served():
    return Library([DEPTH]).find(DEPTH)


def test_a_front_is_made_once_and_only_so_many_are_kept(served, monkeypatch):
    made = []

    def steps(_served, load, cost):
        made.append((load, cost))
        yield
        return {"context": load.context}

    monkeypatch.setattr(module, "describe_under", steps)
    monkeypatch.setattr(module, "_MOST_KEPT", 2)
    fronts = Fronts(Answers())

    async def asking():
        found = [asyncio.create_task(fronts.text(served, Load(context), "")) for context in (1, 1, 1)]
        assert await asyncio.gather(*found) == ['{"context": 1}'] * 3
        for context in (2, 1, 3, 1, 2):  # 2 was asked before 1, and goes for 3
            assert await fronts.text(served, Load(context), "") == f'{{"context": {context}}}'

    asyncio.run(asking())
    assert [load.context for load, _ in made] == [1, 2, 3, 2]
    assert len(fronts._kept) == 2


def test_others_are_answered_between_two_steps(served, monkeypatch):
    order, asked = [], threading.Event()

    def steps(_served, _load, _cost):
        asked.wait(60)
        order.append("first step")
        yield
        order.append("second step")
        return {}

    monkeypatch.setattr(module, "describe_under", steps)
    answers = Answers(lambda *_: order.append("answer"))
    fronts = Fronts(answers)

    async def asking():
        front = asyncio.create_task(fronts.text(served, LOAD, ""))
        while not fronts._waiting:
            await asyncio.sleep(0)
        answer = asyncio.create_task(answers.ask(served, [Request.of(sparsity=0.2)]))
        while not answers._lines and answers._running is None:
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # now it is in the thread's line
        asked.set()
        await asyncio.gather(front, answer)

    asyncio.run(asking())
    assert order[0] == "first step" and order[-1] == "second step" and "answer" in order


def test_a_line_that_is_too_long_and_a_wait_that_is_too_long_are_refused(served, monkeypatch):
    monkeypatch.setattr(module, "_MOST_WAITING", 1)
    fronts = Fronts(Answers())

    async def asking():
        return await asyncio.gather(
            *(fronts.text(served, Load(context), "") for context in (1, 2)), return_exceptions=True
        )

    first, second = asyncio.run(asking())
    assert first.startswith("{") and isinstance(second, BusyError)
    assert fronts._waiting == 0
    monkeypatch.setattr(module, "_LONGEST", 0.0)
    with pytest.raises(BusyError, match="within 0 seconds"):
        asyncio.run(fronts.text(served, Load(3), ""))
    assert fronts._waiting == 0


@pytest.mark.parametrize("kind", LOADED)
def test_an_offer_holds_only_values_that_may_be_asked(kind):
    class Ends:
        def __init__(self, *ends):
            self.ends = lambda _cost, _load: ends

    slow = find_offer_under(Ends(0.7, 1.3), "min_speedup", LOAD)  # its first strategies are slower than dense
    assert slow.low > 1.0 and slow.high == pytest.approx(1 / 0.7, rel=1e-5) and slow.high <= 1 / 0.7
    assert find_offer_under(Ends(1.1, 1.3), "min_speedup", LOAD) is None
    one = 7 if kind == "max_memory" else 0.5
    assert find_offer_under(Ends(one, one), kind, LOAD) is None
    offer = find_offer_under(Ends(1.23456789, 9.87654321), "max_latency", LOAD)
    assert offer.low >= 1.23456789
    assert [offer.at(place) for place in (0.0, 1.0)] == [offer.low, offer.high]


def test_what_is_served_says_of_which_device_its_times_are(timed):
    assert timed.get(f"{FRONT}?context=100").json()["times"]["device"] == "a card"
    assert Served.of("x", load_profile(DEPTH)).describe().get("times") is None
