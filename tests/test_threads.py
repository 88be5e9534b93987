"""Answers do not depend on how many threads torch works in."""

import threading

import pytest
import torch

from unicuco_plugin import load_profile
from unicuco_plugin.request import Request
from unicuco_plugin.threads import one_thread


@pytest.fixture
def four():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_as_many_threads_as_before_come_back(four):
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 4


def test_who_asks_meanwhile_gets_one_thread_too_and_nobody_takes_it_away(four):
    inside, seen = threading.Event(), []

    def other():
        torch.set_num_threads(4)
        assert inside.wait(20)
        with one_thread():
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    thread.start()
    with one_thread():
        inside.set()
        thread.join(0.05)
        assert torch.get_num_threads() == 1
    thread.join(20)
    assert seen == [1, 4]
    assert torch.get_num_threads() == 4


@pytest.mark.slow
@pytest.mark.parametrize("space", ["depth", "precision"])
def test_answers_are_those_of_one_thread(four, space):
    asked = [
        Request.of(**one) for one in ({"preference": (0.3, 0.7)}, {"max_divergence": 0.4}, {"max_bytes": 190_000_000})
    ]

    def answers():
        profile = load_profile(f"smollm2-135m-instruct-{space}")
        return [answer.to_json() for answer in [*profile.answer_many(asked), *profile.front()]]

    many = answers()
    torch.set_num_threads(1)
    assert many == answers()
