"""What an answer is worth on a benchmark's texts."""

import pytest

from unicuco_plugin.benchmark.plan import BenchmarkPlan
from unicuco_plugin.benchmark.quality import Quality
from unicuco_plugin.benchmark.texts import Texts
from unicuco_plugin.journal.journal import Journal
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.objectives.evaluator import BlockEvaluator
from unicuco_plugin.training.correcting import find_corrections


@pytest.fixture
def quality(data, dense, tmp_path):
    evaluation = data["evaluation"] | {"one": data["evaluation"]["b"] | {"windows": 1}}
    plan = BenchmarkPlan.model_validate(data | {"evaluation": evaluation, "seeds": [0], "ablations": {}})
    with Journal.open(tmp_path / "benchmark.sqlite", {}, resume=True) as journal:
        yield Quality(plan, Texts(plan), find_decoder(load_model(dense)), journal)


def test_a_strategy_is_measured_on_every_window_of_a_text_and_only_once(quality):
    told = []
    first = quality.measure("b", {"model.layers.1": 1.0}, lambda: told.append("b"))
    assert quality.measure("b", {"model.layers.1": 1.0}, lambda: told.append("again")) == first
    assert told == ["b"]
    [plain] = BlockEvaluator(quality.decoder, quality.texts.evaluation["b"]).evaluate([[1]])
    assert first["mean"] == pytest.approx(plain.value)
    assert first["windows"] == [round(value, 6) for value in plain.per_window]
    assert first["standard_error"] > 0


def test_with_a_compensation_it_is_another_measurement(quality):
    units = {"model.layers.1": 1.0, "model.layers.2": 1.0}
    plain = quality.measure("b", units, lambda: None)
    corrected = quality.measure("b", units, lambda: None, "ridge")
    assert corrected == quality.measure("b", units, pytest.fail, "ridge") != plain
    solved = find_corrections("ridge", quality.decoder, quality.texts.calibration)
    evaluator = BlockEvaluator(quality.decoder, quality.texts.evaluation["b"], corrections=solved)
    assert corrected["mean"] == pytest.approx(evaluator.evaluate([[1, 2]])[0].value)


def test_one_window_says_nothing_of_its_spread(quality):
    found = quality.measure("one", {"model.layers.1": 1.0}, lambda: None)
    assert len(found["windows"]) == 1
    assert found["standard_error"] is None


def test_contents_are_noted_once_and_the_same_ones_pass_again(quality, tmp_path):
    for _ in range(2):
        quality.check_contents(tmp_path / "benchmark.sqlite")
        assert sorted(note.split("/")[1] for note in quality.journal.notes()) == [
            "calibration", "evaluation.b", "evaluation.c", "evaluation.one",
        ]  # fmt: skip
