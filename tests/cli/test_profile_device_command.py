"""``unicuco profile-device``, what is asked with its table, and a checkpoint that is timed beside its prediction."""

import gc
import json
import sys

import pytest
from click.testing import CliRunner
from device_tables import made_table
from transformers import PreTrainedModel
from vllm_stub import write_stub

from unicuco_plugin.answering import load_profile
from unicuco_plugin.cli.main import main
from unicuco_plugin.costs.device_table import DeviceTable
from unicuco_plugin.timing.verify import verify_latency


@pytest.fixture(scope="module")
def table(dense, tmp_path_factory):
    path = tmp_path_factory.mktemp("device") / "device.json"
    sizes = ["--context", "8", "--batch", "1", "--repeats", "1", "--output", str(path)]
    result = CliRunner().invoke(main, ["profile-device", "--model", str(dense), *sizes])
    assert result.exit_code == 0, result.stderr
    assert "dense model" in result.stdout
    assert "mlp" in result.stdout
    return path


def test_what_is_there_is_kept_unless_said(unicuco, dense, table):
    before = table.read_bytes()
    result = unicuco("profile-device", "--model", dense, "--context", "8", "--output", table)
    assert result.exit_code == 1
    assert "is there already; pass --resume" in result.stderr
    assert table.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--eager"], "--eager goes with --engine vllm"),
        (["--schemes", "W4A16:g32"], "--schemes goes with --engine vllm"),
        (["--engine", "vllm", "--offload", "disk"], "--device and --offload go with --engine transformers"),
    ],
)
def test_options_of_the_other_engine_are_refused(unicuco, dense, tmp_path, options, message):
    result = unicuco("profile-device", "--model", dense, "--output", tmp_path / "t.json", *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_vllm_is_asked_before_a_model_is_loaded(unicuco, tmp_path):
    asked = ["profile-device", "--model", tmp_path, "--output", tmp_path / "t.json", "--engine", "vllm"]
    result = unicuco(*asked, "--vllm-python", tmp_path / "python")
    assert "vllm-python must be a Python that can be started" in result.stderr
    result = unicuco(*asked, "--vllm-python", sys.executable, "--schemes", "W99")
    assert "W99" in result.stderr


@pytest.mark.slow
def test_a_table_of_vllm_is_measured_and_asked(unicuco, dense, profile, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(write_stub(tmp_path / "stub")))
    table = tmp_path / "vllm.json"
    sizes = ["--context", "8", "--repeats", "1", "--engine", "vllm", "--vllm-python", sys.executable]
    result = unicuco("profile-device", "--model", dense, *sizes, "--eager", "--output", table)
    assert result.exit_code == 0, result.stderr
    assert "by vllm, eager" in result.stdout
    asked = ["strategy", profile, "--sparsity", "0.3", "--context", "8", "--device-table", table]
    assert "times predicted for a card, float32, by vllm" in unicuco(*asked).stdout


@pytest.mark.parametrize("value", ["", "8,x", "0"])
def test_sizes_must_be_positive_whole_numbers(unicuco, dense, tmp_path, value):
    result = unicuco("profile-device", "--model", dense, "--context", value, "--output", tmp_path / "t.json")
    assert result.exit_code == 2


def test_speed_is_asked_and_shown(unicuco, profile, table):
    asked = ["strategy", profile, "--min-speedup", "1.05", "--context", "8", "--device-table", table]
    data = json.loads(unicuco(*asked, "--json").stdout)
    assert data["request"] == {"min_speedup": 1.05, "context": 8}
    assert data["latency"]["dense_decode"] / data["latency"]["decode"] >= 1.05
    shown = unicuco(*asked).stdout
    assert "decode ms  speedup  prefill ms  speedup" in shown
    assert f"times predicted for {DeviceTable.read(table).device.name}, float32" in shown


def test_without_a_table_or_a_load_an_error_says_what_is_missing(unicuco, profile, table):
    result = unicuco("strategy", profile, "--max-latency", "1s", "--context", "8")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "unicuco profile-device --model M" in result.stderr
    result = unicuco("strategy", profile, "--max-latency", "1s", "--device-table", table)
    assert "max_latency needs context" in result.stderr
    result = unicuco("strategy", profile, "--sparsity", "0.3", "--device-table", table)
    assert result.exit_code == 2
    assert "--device-table needs the load whose times are asked: --context N" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--strategy", "s.json", "--device-table", "t.json"],
            "--device-table goes with --profile, not with --strategy",
        ),
        (["--sparsity", "0.3", "--verify-latency"], "--verify-latency needs --device-table FILE"),
        (
            ["--sparsity", "0.3", "--verify-latency", "--device-table", "t.json"],
            "--device-table needs the load whose times",
        ),
        (
            ["--sparsity", "0.3", "--verify-latency", "--device-table", "t.json", "--trust-remote-code"],
            "--verify-latency loads no code of a checkpoint's own",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(unicuco, profile, tmp_path, options, message):
    source = [] if "--strategy" in options else ["--profile", profile]
    result = unicuco("prune", "--model", "m", "--output", tmp_path / "out", *source, *options)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        ("sparsity", [], "it zeroes single weights"),
        ("structured", ["--format", "stock"], "format stock has the dense model's shape"),
    ],
)
def test_what_has_no_times_is_refused_before_a_model_is_loaded(unicuco, tmp_path, space, options, message):
    name = f"smollm2-135m-instruct-{space}"
    made_table(load_profile(name).model.fingerprint).write(tmp_path / "t.json")
    asked = ["--profile", name, "--sparsity", "0.3", "--context", "100", "--device-table", tmp_path / "t.json"]
    result = unicuco("prune", "--model", "none", "--output", tmp_path / "out", *asked, "--verify-latency", *options)
    assert result.exit_code == 1
    assert f"--verify-latency has nothing to compare: {message}" in result.stderr


@pytest.mark.slow
def test_a_checkpoint_is_timed_and_the_table_remembers(unicuco, dense, profile, table, tmp_path):
    asked = ["--profile", profile, "--sparsity", "0.3", "--context", "8", "--device-table", table]
    left, timing = [], verify_latency

    def look(*args, **options):  # nothing holds the pruned model when another one is loaded
        left.extend(one for one in gc.get_objects() if isinstance(one, PreTrainedModel))
        return timing(*args, **options)

    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, PreTrainedModel)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unicuco_plugin.timing.verify.verify_latency", look)
        result = unicuco("prune", "--model", dense, "--output", tmp_path / "out", *asked, "--verify-latency")
    assert result.exit_code == 0, result.stderr
    assert "predicted for" in result.stdout
    assert result.stdout.count(" ms, measured ") == 2
    assert left == []
    first, second = DeviceTable.read(table).observations
    assert (first.space, {first.phase, second.phase}) == ("depth", {"decode", "prefill"})
    wrong = ["--dtype", "bfloat16", "--output", tmp_path / "other"]
    refused = unicuco("prune", "--model", dense, *wrong, *asked)
    assert "has times of float32, the model is in bfloat16: give --dtype float32" in refused.stderr
    assert not (tmp_path / "other").exists()
