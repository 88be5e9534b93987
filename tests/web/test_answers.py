"""Requests that wait together are answered as if alone."""

import asyncio
import gc
import threading
import weakref

import pytest
from asgi import BITS, DEPTH

from unicuco_plugin.answering import load_profile
from unicuco_plugin.errors import RequestError
from unicuco_plugin.request import Request
from unicuco_plugin.web import answers as module
from unicuco_plugin.web.answers import Answer, Answers, BusyError, answer_each
from unicuco_plugin.web.library import Library


@pytest.fixture(scope="module")
def library():
    return Library([DEPTH, BITS])


def sparsities(*shares):
    return [Request.of(sparsity=share) for share in shares]


def test_those_that_cannot_be_met_do_not_touch_the_others():
    profile = load_profile(DEPTH)
    found = answer_each(profile, sparsities(0.1, 0.99, 0.2, 0.3, 0.98))
    assert [answer.error is None for answer in found] == [True, False, True, True, False]
    assert isinstance(found[1].error, RequestError)
    assert found[3].text == profile.answer(sparsity=0.3).to_json()


def test_a_refusal_that_is_kept_holds_no_profile():
    class Refusing:
        def answer_many(self, requests):
            try:
                raise KeyError
            except KeyError as error:
                raise RequestError("no") from error

    refusing = Refusing()
    gone = weakref.ref(refusing)
    [answer] = answer_each(refusing, sparsities(0.1))
    del refusing
    gc.collect()
    assert str(answer.error) == "no"
    assert gone() is None


def test_clients_that_wait_for_one_profile_are_answered_together_and_profiles_take_turns(library, monkeypatch):
    depth, bits = library.find(DEPTH), library.find(BITS)
    batches, begun = [], threading.Event()

    def slowly(profile, requests):
        begun.wait(60)
        batches.append((profile.name, len(requests)))
        return answer_each(profile, requests)

    monkeypatch.setattr(module, "answer_each", slowly)
    answers = Answers()

    async def asking():
        asked = [answers.ask(depth, [one]) for one in sparsities(*(0.1 + place / 100 for place in range(40)))]
        asked.append(answers.ask(bits, [Request.of(bits=5)]))
        tasks = [asyncio.create_task(one) for one in asked]
        await asyncio.sleep(0)
        begun.set()
        return await asyncio.gather(*tasks)

    found = asyncio.run(asking())
    assert batches == [(DEPTH, 16), (BITS, 1), (DEPTH, 16), (DEPTH, 8)]
    assert [answer.text for [answer] in found[:40]] == [
        strategy.to_json() for strategy in depth.profile.answer_many(sparsities(*(0.1 + i / 100 for i in range(40))))
    ]


def test_each_load_waits_for_its_own_turn(library, monkeypatch):
    depth, bits, loads = library.find(DEPTH), library.find(BITS), []
    monkeypatch.setattr(
        module, "answer_each", lambda _, some: loads.append({r.load for r in some}) or [Answer("{}")] * len(some)
    )
    answers = Answers()
    asked = [Request.of(max_memory=10**9, context=1024 * (1 + place % 3)) for place in range(6)]

    async def asking():
        await asyncio.gather(*(answers.ask(served, asked) for served in (depth, bits)))

    asyncio.run(asking())
    assert loads == [{asked[place].load} for place in (0, 0, 1, 1, 2, 2)]


def test_what_was_answered_is_kept_and_no_more_than_so_much(library, monkeypatch):
    monkeypatch.setattr(module, "_MOST_KEPT", 3)
    told = []
    answers = Answers(lambda *count: told.append(count[1:]))
    for share in (0.1, 0.2, 0.3, 0.4, 0.4, 0.1):
        asyncio.run(answers.ask(library.find(DEPTH), sparsities(share)))
    assert [outcome for outcome, count in told if count] == ["found"] * 4 + ["kept", "found"]
    assert len(answers._kept) == 3


def test_a_line_that_is_too_long_and_a_wait_that_is_too_long_are_refused(library, monkeypatch):
    monkeypatch.setattr(module, "_MOST_WAITING", 2)
    with pytest.raises(BusyError, match="at most 2"):
        asyncio.run(Answers().ask(library.find(DEPTH), sparsities(0.1, 0.2, 0.3)))
    monkeypatch.setattr(module, "_LONGEST", 0.0)
    with pytest.raises(BusyError, match="within 0 seconds"):
        asyncio.run(Answers().ask(library.find(DEPTH), sparsities(0.1)))
