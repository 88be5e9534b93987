"""``unicuco benchmark``: from a YAML to tables and pictures, and on again."""

import json

import pytest
import torch
import yaml
from tiny_settings import TINY

pytestmark = pytest.mark.slow


def test_a_benchmark_is_written_and_goes_on_from_what_is_there(unicuco, dense, text, tmp_path):
    windows = {"sources": [str(text)], "windows": 2, "seq_length": 16}
    plan = {
        "model": str(dense), "calibration": windows, "evaluation": {"prose": windows}, "budgets": [0.3],
        "train": TINY, "methods": {"ours": {"train": {}}, "shortgpt": {"peer": "shortgpt"}},
    }  # fmt: skip
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    result = unicuco("benchmark", tmp_path / "plan.yaml", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "| ours | 1 |" in result.stdout
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["method"] for row in written["rows"]] == ["ours", "shortgpt"]
    assert written["plan"]["budgets"] == [0.3]
    assert written["command"] == f"unicuco benchmark {tmp_path / 'plan.yaml'} --output {tmp_path / 'out'}"
    assert written["machine"]["threads"] == torch.get_num_threads()
    assert written["plan"]["offload"] == "auto"
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"quality.png", "tokens.png", "requests.png"}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan | {"budgets": [0.3, 0.5]}))
    place = ("--device", "auto", "--offload", "disk")
    again = unicuco("benchmark", tmp_path / "plan.yaml", "--output", tmp_path / "out", *place)
    assert again.exit_code == 0, again.stderr
    assert "blocks in files until they are needed (--offload disk): as asked" in again.stderr
    streamed = json.loads((tmp_path / "out" / "results.json").read_text())
    assert streamed["command"] == f"{written['command']} {' '.join(place)}"
    more = streamed["rows"]
    assert more[0] == written["rows"][0]
    assert [row["budget"] for row in more] == [0.3, 0.5, 0.3, 0.5]


def test_a_device_that_there_is_not_is_refused_before_the_plan_is_read(unicuco, tmp_path):
    result = unicuco("benchmark", tmp_path / "plan.yaml", "--output", tmp_path / "out", "--device", "tpu")
    assert result.exit_code == 2
    assert "Invalid value for '--device': 'tpu' cannot be used" in result.stderr


def test_a_wrong_plan_is_one_line(unicuco, tmp_path):
    (tmp_path / "plan.yaml").write_text("model: m\n")
    result = unicuco("benchmark", tmp_path / "plan.yaml", "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: benchmark {tmp_path / 'plan.yaml'}: calibration: Field required")
    assert not (tmp_path / "out").exists()
