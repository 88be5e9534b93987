"""A benchmark answered by workers ends in the rows of one process, whoever is lost and wherever it is broken off."""

import pytest
from worker_threads import Threads

from unicuco_plugin.benchmark import cells
from unicuco_plugin.benchmark.plan import BenchmarkPlan
from unicuco_plugin.benchmark.run import JOURNAL, run_benchmark
from unicuco_plugin.errors import CalibrationError, ModelMismatchError
from unicuco_plugin.executors import crew
from unicuco_plugin.executors.crew import LostError

pytestmark = pytest.mark.slow

TIMED = ("seconds", "answer_seconds")


def untimed(result):
    rows = [{name: value for name, value in row.items() if name not in TIMED} for row in result["rows"]]
    return result | {"rows": rows}


@pytest.fixture(scope="module")
def plan(data):
    """A method that is trained, and two peers, at two budgets."""
    return BenchmarkPlan.model_validate(data | {"seeds": [0], "ablations": {}})


@pytest.fixture(scope="module")
def alone(plan, tmp_path_factory):
    return untimed(run_benchmark(plan, tmp_path_factory.mktemp("runs") / "alone"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(crew, "_PAUSE", 0.001)


def test_rows_are_those_of_one_process_and_nothing_is_left_of_the_workers(plan, alone, tmp_path):
    told = []
    workers = Threads(3, pickled=True)
    assert untimed(run_benchmark(plan, tmp_path / "out", told.append, workers=workers)) == alone
    assert {task for _, task in workers.tasks} == {cell.identity for cell in plan.cells()}
    assert len(workers.tasks) == len({cell.identity for cell in plan.cells()})
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        JOURNAL, f"{JOURNAL}.lock", "profiles", "searches", "workers"
    }  # fmt: skip
    assert list((tmp_path / "out" / "workers").iterdir()) == []
    assert {event.done for event in told if event.stage.endswith("on workers")} > {0}


def test_what_lost_workers_and_broken_runs_had_found_is_not_found_again(plan, alone, tmp_path, monkeypatch):
    real, answered = cells.CellRunner.row, []

    def row(self, cell):
        if cell.key not in self.journal.notes():
            answered.append(cell.key)
        if len(answered) in {3, 6}:
            answered.append("broken")
            raise LostError("killed") if len(answered) < 6 else ZeroDivisionError
        return real(self, cell)

    monkeypatch.setattr(cells.CellRunner, "row", row)
    with pytest.raises(ZeroDivisionError):
        run_benchmark(plan, tmp_path / "out", workers=Threads(1))
    assert list((tmp_path / "out" / "workers").glob("*.sqlite"))
    assert untimed(run_benchmark(plan, tmp_path / "out")) == alone
    keys = [key for key in answered if key != "broken"]
    assert len(keys) <= len(set(keys)) + 2
    assert list((tmp_path / "out" / "workers").iterdir()) == []


def test_a_text_that_a_plan_names_later_is_measured_by_workers(plan, alone, tmp_path):
    fewer = plan.model_copy(update={"evaluation": dict(list(plan.evaluation.items())[:1])})
    run_benchmark(fewer, tmp_path / "out")
    workers = Threads(2)
    assert untimed(run_benchmark(plan, tmp_path / "out", workers=workers)) == alone
    assert {task for _, task in workers.tasks} == {cell.identity for cell in plan.cells()}
    workers = Threads(2)
    assert untimed(run_benchmark(plan, tmp_path / "out", workers=workers)) == alone
    assert not workers.tasks


def test_another_model_or_text_on_a_workers_machine_is_refused(plan, tmp_path, monkeypatch):
    def elsewhere(field, value):
        def script(_count, _task):
            raise AssertionError("it began")

        workers = Threads(1, script)
        begin = workers.at

        def at(opening, *rest):
            object.__setattr__(opening, field, getattr(opening, field) | value)
            return begin(opening, *rest)

        workers.at = at
        return workers

    with pytest.raises(ModelMismatchError, match=r"^model of a worker must be the benchmark's other, got "):
        run_benchmark(plan, tmp_path / "out", workers=elsewhere("header", {"model": "other"}))
    with pytest.raises(CalibrationError, match=r"^evaluation\.b holds another text on a worker's machine"):
        run_benchmark(plan, tmp_path / "out", workers=elsewhere("hashes", {"evaluation.b": "other"}))
