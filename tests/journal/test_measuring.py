import math

import pytest
import torch
from analytic import SPACE, AnalyticObjective, value_of

from unicuco_plugin.errors import PluginError
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.journal.measuring import JournaledMeasure
from unicuco_plugin.objectives.executor import InPlace, Objectives
from unicuco_plugin.objectives.floor import LEAST

X = torch.eye(10, dtype=torch.float64)


class Broken:
    """Answers its n-th batch wrongly."""

    def __init__(self, number, wrong):
        self.number, self.wrong, self.right = number, wrong, AnalyticObjective()

    def evaluate(self, X):
        found = self.right.evaluate(X)
        if len(self.right.batches) <= self.number:
            return found
        if isinstance(self.wrong, Exception):
            raise self.wrong
        return [*found[:-1], type(found[-1])(self.wrong, (self.wrong,), 1, 0.0)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.sqlite"


def open_journal(path):
    return Journal.open(path, {}, resume=True)


def keys_of(path, fidelity="rank"):
    with open_journal(path) as journal:
        return [row.key for row in journal.measurements(fidelity)]


def measuring(journal, makers):
    return JournaledMeasure(journal, SPACE, InPlace(Objectives(makers), 4))


def silent(_):
    """Reports nothing."""


def test_strategies_are_measured_in_batches_of_the_given_size_and_returned_in_order(path):
    objective, reports = AnalyticObjective(), []
    with open_journal(path) as journal:
        rows = measuring(journal, {"rank": lambda: objective})("rank", X, reports.append)
    assert [len(batch) for batch in objective.batches] == [4, 4, 2]
    assert [row.key for row in rows] == [str(i) for i in range(10)]
    assert [row.value for row in rows] == [value_of(x) for x in X]
    assert reports == [0, 4, 8, 10]


class Talking(AnalyticObjective):
    """Says how far it is."""

    def evaluate_reporting(self, X, report):
        for done in (0.3, 1.0, 1.2, 2.0, 4.0):
            report(done)
        return self.evaluate(X)


def test_within_a_batch_whole_strategies_are_told_and_the_last_when_all_are_in_the_journal(path):
    reports = []
    with open_journal(path) as journal:
        measure = measuring(journal, {"rank": Talking})
        measure("rank", X[:8], reports.append)
        assert reports == [0, 1, 2, 3, 4, 5, 6, 7, 8]
        reports.clear()
        measure("rank", X[:8], reports.append)
    assert reports == [8]  # read at once


def test_what_was_measured_is_in_the_journal_and_not_measured_again(path):
    objective = AnalyticObjective()
    with open_journal(path) as journal:
        measure = measuring(journal, {"rank": lambda: objective})
        first = measure("rank", X[[0, 1, 2]], silent)
        assert measure("rank", X[[2, 3, 0, 3, 3]], silent)[0] == first[2]
    again = AnalyticObjective()
    with open_journal(path) as journal:
        assert measuring(journal, {"rank": lambda: again})("rank", X[:3], silent) == first
    assert objective.batches == [["0", "1", "2"], ["3"]]
    assert again.batches == []
    assert keys_of(path) == ["0", "1", "2", "3"]


def test_fidelities_are_apart_and_an_objective_is_made_when_first_needed(path):
    made = []

    def maker(name):
        return lambda: made.append(name) or AnalyticObjective()

    with open_journal(path) as journal:
        measure = measuring(journal, {"rank": maker("rank"), "confirm": maker("confirm")})
        measure("rank", X[:2], silent)
        assert made == ["rank"]
        measure("rank", X[2:4], silent)
        measure("confirm", X[:2], silent)
        assert made == ["rank", "confirm"]
        assert len(journal.measurements("confirm")) == 2


def test_what_is_recorded_while_it_is_looked_up_is_not_given_again(path, monkeypatch):
    given = []

    class Elsewhere:
        """Records what it holds when it is told to, as a worker's thread may at any moment."""

        def give(self, _fidelity, X, record):
            given.append((len(X), lambda: record(range(len(X)), AnalyticObjective().evaluate(X))))

    with open_journal(path) as journal:
        measure = JournaledMeasure(journal, SPACE, Elsewhere())
        measure.begin("rank", X[:4])
        look = journal.lookup

        def lookup(fidelity, keys):
            found = look(fidelity, keys)
            given[0][1]()
            return found

        monkeypatch.setattr(journal, "lookup", lookup)
        measure.begin("rank", X[:6])
    assert [count for count, _ in given] == [4, 2]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -0.1])
def test_a_value_that_is_negative_or_not_finite_fails_its_whole_batch_and_no_other(path, wrong):
    with open_journal(path) as journal:
        measure = measuring(journal, {"rank": lambda: Broken(1, wrong)})
        with pytest.raises(
            PluginError, match=f"^an objective's value must be finite and at least 0, got {wrong} for 7$"
        ):
            measure("rank", X, silent)
    assert keys_of(path) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("tiny", [0.0, 1e-12, 0.5 * LEAST])
def test_what_lies_below_the_floor_is_journaled_as_measured_and_searched_at_the_floor(path, tiny):
    with open_journal(path) as journal:
        measure = measuring(journal, {"rank": lambda: Broken(0, tiny)})
        fresh = measure("rank", X[:4], silent)
        assert measure("rank", X[:4], silent) == fresh  # read back
    assert fresh[3].value == LEAST
    assert fresh[3].per_window == (tiny,)
    assert [row.value for row in fresh[:3]] == [value_of(x) for x in X[:3]]
    with open_journal(path) as journal:
        assert journal.measurements("rank")[3].value == tiny


def test_an_exception_loses_its_batch_only_and_the_rest_is_measured_later(path):
    failed = r"^the objective failed on 2 strategies: 'x'$"
    with open_journal(path) as journal, pytest.raises(PluginError, match=failed):
        measuring(journal, {"rank": lambda: Broken(2, KeyError("x"))})("rank", X, silent)
    assert len(keys_of(path)) == 8
    objective = AnalyticObjective()
    with open_journal(path) as journal:
        measuring(journal, {"rank": lambda: objective})("rank", X, silent)
    assert objective.batches == [["8", "9"]]
