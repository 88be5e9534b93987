"""What the journal holds is read, the rest is made together and kept."""

import math

import pytest

from unicuco_plugin.errors import PluginError
from unicuco_plugin.journal.journal import Journal, Measurement
from unicuco_plugin.journal.once import measure_once, note_once
from unicuco_plugin.objectives.objective import Evaluation


@pytest.fixture
def journal(tmp_path):
    with Journal.open(tmp_path / "journal.sqlite", {}, resume=True) as opened:
        yield opened


def scored(*values):
    return [Evaluation(value, (value, 2 * value), 7, 0.25) for value in values]


def measured(key, value):
    return Measurement(key, "rank", value, (value, 2 * value), 7, 0.25)


def test_only_what_is_missing_is_measured_in_order_and_each_once(journal):
    journal.record([measured("b", 5.0)])
    asked = []

    def measure(places):
        asked.append(places)
        return scored(1.0, 3.0)

    keys = ["a", "b", "c", "a", "b"]
    rows = measure_once(journal, "rank", keys, measure)
    assert [keys[place] for place in asked[0]] == ["a", "c"]
    assert rows == [measured(key, {"a": 1.0, "b": 5.0, "c": 3.0}[key]) for key in keys]
    assert [row.key for row in journal.measurements("rank")] == ["b", "a", "c"]
    assert measure_once(journal, "rank", keys, measure) == rows
    assert len(asked) == 1


def test_another_fidelity_is_another_measurement(journal):
    measure_once(journal, "rank", ["a"], lambda _: scored(1.0))
    assert measure_once(journal, "confirm", ["a"], lambda _: scored(2.0))[0].value == 2.0
    assert [len(journal.measurements(fidelity)) for fidelity in ("rank", "confirm")] == [1, 1]


def test_no_strategies_need_no_objective(journal):
    assert measure_once(journal, "rank", [], lambda _: pytest.fail("asked for nothing")) == []


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ((1.0, math.nan), r"^an objective's value must be finite and at least 0, got nan for b$"),
        ((1.0, -0.5), r"^an objective's value must be finite and at least 0, got -0\.5 for b$"),
        ((1.0,), r"^an objective must give one value per strategy, got 1 for 2$"),
        ((1.0, 1.0, 1.0), r"^an objective must give one value per strategy, got 3 for 2$"),
    ],
)
def test_values_that_cannot_be_are_refused_and_none_of_them_is_kept(journal, values, rule):
    with pytest.raises(PluginError, match=rule):
        measure_once(journal, "rank", ["a", "b"], lambda _: scored(*values))
    assert journal.measurements("rank") == []


def test_a_note_is_made_once_and_read_afterwards(journal):
    made = []
    notes = [note_once(journal, "slopes 1", lambda: made.append(1) or {"u": 0.1}) for _ in range(3)]
    assert notes == [{"u": 0.1}] * 3
    assert made == [1]
    assert note_once(journal, "slopes 2", lambda: [2]) == [2]
    assert journal.notes() == {"slopes 1": {"u": 0.1}, "slopes 2": [2]}


def test_a_note_that_could_not_be_made_is_made_the_next_time(journal):
    with pytest.raises(ZeroDivisionError):
        note_once(journal, "slopes", lambda: 1 / 0)
    assert note_once(journal, "slopes", lambda: 3) == 3
