"""The script that checks a real accelerator, on the emulated one: what it compares is equal to the bit there."""

import json
import sys
from pathlib import Path

import pytest
from other_device import DEVICE

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def rows(tmp_path, monkeypatch, capsys):
    """Run the script in stages and return what each said."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / "gpu_check.py")])
    from gpu_check import main

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["--dry-run", "--device", str(DEVICE), "--output", str(tmp_path / "found.json"), *arguments])
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
        assert json.loads((tmp_path / "found.json").read_text())["stages"] == lines
        return ended.value.code, {line.pop("stage"): line for line in lines}

    return run


def test_the_emulated_device_is_found_to_be_as_the_cpu(rows):
    code, found = rows("--stages", "machine", "evaluation")
    assert not code, found
    assert found.keys() == {"machine", "evaluation"}
    gaps = {name: value for row in found.values() for name, value in row.items() if name.endswith("gap")}
    assert len(gaps) == 6
    assert not any(gaps.values())


def test_a_fault_is_told_and_a_stage_that_has_no_time_is_skipped(rows, monkeypatch):
    import gpu_check

    monkeypatch.setattr(gpu_check, "subject_of", lambda *_: 1 / 0)
    monkeypatch.setitem(gpu_check.STAGES, gpu_check.oneshot, 1000.0)
    code, found = rows("--stages", "evaluation", "oneshot", "--limit", "900")
    assert code == 1
    assert found["evaluation"]["error"] == "ZeroDivisionError: division by zero"
    assert found["oneshot"] == {"skipped": found["oneshot"]["skipped"]}
