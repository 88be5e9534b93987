"""Workers come and go; every strategy is recorded once, and what nobody can do is said."""

import threading
import time

import pytest
from analytic import SPACE, AnalyticObjective, value_of
from torch import eye, float64

from unicuco_plugin.errors import EvaluationError, ModelMismatchError, PluginError
from unicuco_plugin.executors import crew
from unicuco_plugin.executors.crew import LostError
from unicuco_plugin.executors.measuring import CandidateCrew
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.journal.measuring import JournaledMeasure

X = eye(10, dtype=float64)


class Fake:
    """A worker in a thread; asks ``script`` what becomes of each call, given how many calls there were before."""

    def __init__(self, script, calls, said):
        self.script, self.calls, self.said = script, calls, said
        self.objective, self.ended = AnalyticObjective(), threading.Event()

    def load(self):
        self.script(self, "load", None)

    def do(self, fidelity, X):
        self.calls.append([SPACE.key(x) for x in X])
        self.script(self, len(self.calls), X)
        return self.objective.evaluate(X)

    def end(self):
        self.ended.set()


def well(_worker, _call, _X):
    """Nothing happens."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Measure X with a crew: the rows, the calls, what was said, and what the journal holds."""

    monkeypatch.setattr(crew, "_PAUSE", 0.001)

    def measure(script=well, count=2, most=4, ahead=()):
        calls, said = [], []
        workers = CandidateCrew(lambda: Fake(script, calls, said), count, most, said.append)
        try:
            with Journal.open(tmp_path / "j", {}, resume=True) as journal:
                measured = JournaledMeasure(journal, SPACE, workers)
                for part in ahead:
                    measured.begin("rank", part)
                found = measured("rank", X, lambda _: None)
                return found, calls, said, journal.measurements("rank")
        finally:
            workers.close()

    return measure


def check(found, journaled):
    assert [row.key for row in found] == [str(i) for i in range(10)]
    assert [row.value for row in found] == [value_of(x) for x in X]
    assert sorted(row.key for row in journaled) == sorted(row.key for row in found)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_number_of_workers_gives_the_same_values_in_the_same_order(run, count):
    found, calls, _, journaled = run(count=count)
    check(found, journaled)
    assert sorted(key for call in calls for key in call) == [str(i) for i in range(10)]


def test_what_was_begun_is_not_given_out_again(run):
    found, calls, _, journaled = run(ahead=[X[:5], X[3:8]])
    check(found, journaled)
    assert sum(map(len, calls)) == 10


def test_what_a_lost_worker_held_goes_to_others_and_another_is_hired(run):
    def script(_worker, call, _X):
        if call in {1, 3}:
            raise LostError("killed")

    found, calls, said, journaled = run(script)
    check(found, journaled)
    assert sum(map(len, calls)) == 10 + len(calls[0]) + len(calls[2])
    assert said.count("a worker was lost: killed") >= 1


def test_a_lost_worker_is_ended_before_others_take_what_it_held(run):
    lost, seen = [], []

    def script(worker, call, X):
        if call == 1:
            lost.append((worker, {SPACE.key(x) for x in X}))
            raise LostError("killed")
        if call != "load" and lost and lost[0][1] & {SPACE.key(x) for x in X}:
            seen.append(lost[0][0].ended.is_set())

    found, _, _, journaled = run(script)
    check(found, journaled)
    assert seen
    assert all(seen)


def test_a_slow_worker_holds_nobody(run):
    others = threading.Event()

    def script(worker, call, _X):
        if call == 1:
            assert others.wait(20)
        elif call != "load" and len(worker.calls) >= 4:
            others.set()

    found, _, _, journaled = run(script, most=1)
    check(found, journaled)


def test_a_strategy_that_ends_every_worker_ends_the_run(run):
    def script(_worker, call, X):
        if call != "load" and any(SPACE.key(x) == "7" for x in X):
            raise LostError("out of memory")

    with pytest.raises(EvaluationError, match=r"^3 workers were lost over one strategy: out of memory$"):
        run(script, count=3)


def test_the_run_goes_on_with_fewer_workers(run):
    unlucky = []

    def script(worker, call, _X):
        unlucky[:] = unlucky or [threading.current_thread()]
        if call == "load" and threading.current_thread() is unlucky[0]:
            raise LostError("no device")
        # Nobody is told of a worker that is done with everything before anybody waits for it.
        until = time.monotonic() + 20
        while call == 1 and "1 of 2 workers are at work" not in worker.said and time.monotonic() < until:
            time.sleep(0.001)

    found, _, said, journaled = run(script)
    check(found, journaled)
    assert "1 of 2 workers are at work" in said
    assert "2 of 2 workers are at work" not in said


def test_a_run_without_any_worker_left_says_why(run):
    def script(_worker, call, _X):
        if call == "load":
            raise LostError("no device")

    with pytest.raises(EvaluationError, match=r"^no worker is left, each was lost 3 times in a row: no device$"):
        run(script)


def test_what_no_worker_can_do_is_raised_as_it_is(run):
    def script(_worker, call, _X):
        if call == "load":
            raise ModelMismatchError("another model")

    with pytest.raises(ModelMismatchError, match=r"^another model$"):
        run(script)


def test_a_value_that_is_wrong_is_not_recorded(run):
    def script(worker, _call, _X):
        worker.objective.evaluate = lambda _: []

    with pytest.raises(PluginError, match=r"^an objective must give one value per strategy, got 0 for"):
        run(script)


def test_closing_ends_workers_and_threads():
    hired = []

    def stuck(worker, call, _X):
        if call != "load":
            worker.ended.wait(20)
            raise LostError("ended")

    def hire():
        hired.append(Fake(stuck, []))
        return hired[-1]

    before = threading.active_count()
    workers = CandidateCrew(hire, 3, 1, print)
    workers.give("rank", X, print)
    workers.close()
    assert all(worker.ended.is_set() for worker in hired)
    assert threading.active_count() == before
