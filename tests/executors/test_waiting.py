"""Candidates are taken once each, the oldest lot first, beside those that share their first units."""

import threading

import torch

from unicuco_plugin.executors.waiting import Waiting

X = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 0], [1, 1, 1], [0, 0, 0]], dtype=torch.float64)


def given(most=10, X=X):
    waiting = Waiting(most)
    waiting.give("rank", X, print)
    return waiting


def rows(taken):
    return [candidate.row for candidate in taken]


def test_a_lot_is_shared_in_parts_that_shrink_ordered_by_the_first_units():
    waiting = given()
    assert [rows(waiting.take(None, 2)) for _ in range(3)] == [[5, 1, 3], [0, 2], [4]]
    assert [candidate.choices for candidate in given().take(None, 1)] == sorted(map(tuple, X.tolist()))


def test_no_more_are_taken_at_once_than_one_batch():
    assert len(given(most=2).take(None, 1)) == 2


def test_a_worker_gets_what_is_nearest_to_what_it_had():
    waiting = given()
    [first] = given(X=torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)).take(None, 1)
    assert rows(waiting.take(first, 3)) == [2, 4]  # 1 1 0 and 1 1 1


def test_the_older_lot_comes_first_and_what_is_given_back_before_it_one_by_one():
    waiting = given(X=X[:2])
    waiting.give("confirm", X[2:], print)
    taken = waiting.take(None, 1)
    assert [candidate.fidelity for candidate in taken] == ["rank", "rank"]
    waiting.give_back(taken)
    assert [waiting.take(None, 1) for _ in range(2)] == [[taken[0]], [taken[1]]]
    assert {candidate.fidelity for candidate in waiting.take(None, 1)} == {"confirm"}


def test_whoever_waits_gets_nothing_once_all_is_over():
    waiting, found = Waiting(4), []
    thread = threading.Thread(target=lambda: found.append(waiting.take(None, 1)))
    thread.start()
    waiting.close()
    thread.join(5)
    assert found == [[]]
