"""Texts are cut before the model is loaded, and a wrong one is named by its field."""

import pytest

from unicuco_plugin.benchmark.plan import BenchmarkPlan
from unicuco_plugin.benchmark.run import run_benchmark
from unicuco_plugin.benchmark.texts import Texts
from unicuco_plugin.errors import CalibrationError


def test_a_method_reads_the_first_windows_or_more_of_the_same_text(data):
    methods = {name: {"peer": "greedy", "windows": count} for name, count in (("few", 2), ("many", 6))}
    plan = BenchmarkPlan.model_validate(data | {"methods": methods, "ablations": {}})
    texts = Texts(plan)
    few, many = (texts.of_cell(next(cell for cell in plan.cells() if cell.name == name)) for name in ("few", "many"))
    assert few.equal(texts.calibration[:2])
    assert many.shape == (6, texts.calibration.shape[1])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"calibration": {"sources": ["gone.txt"], "windows": 4, "seq_length": 16}}, "calibration"),
        ({"evaluation": {"b": {"sources": ["gone.txt"], "windows": 4, "seq_length": 16}}}, "evaluation.b"),
    ],
)
def test_a_missing_text_is_told_by_its_field_before_the_model_is_loaded(data, change, field, tmp_path, monkeypatch):
    monkeypatch.setattr("unicuco_plugin.benchmark.site.load_model", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(CalibrationError, match=f"^{field}: .*gone.txt"):
        run_benchmark(BenchmarkPlan.model_validate(data | change), tmp_path / "out")


def test_too_little_text_for_a_method_is_told_with_the_method(data):
    methods = {"greedy": {"peer": "greedy", "windows": 10_000}}
    with pytest.raises(CalibrationError, match=r"^methods.greedy.windows: "):
        Texts(BenchmarkPlan.model_validate(data | {"methods": methods, "ablations": {}}))
