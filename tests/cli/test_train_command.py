"""``unicuco train``: options made from the settings, progress, and a run that is broken off."""

import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from unicuco_plugin import training
from unicuco_plugin.answering import load_profile
from unicuco_plugin.cli.main import main
from unicuco_plugin.search.settings import PRESETS, Settings


@pytest.fixture
def tiny_run(dense, text, tmp_path, tiny_options):
    """The arguments of a training run of a second."""
    return ["train", "--model", dense, "--output", tmp_path / "p", *tiny_options, "--calibration", text]


@pytest.fixture
def recorded(monkeypatch):
    """Replaces training; holds what it was called with."""
    calls = []

    def record(model, output, **arguments):
        calls.append({"model": model, "output": output, **arguments})
        raise ZeroDivisionError  # nothing after the call is of interest

    monkeypatch.setattr(training, "train_profile", record)
    return calls


@pytest.mark.slow
def test_a_profile_is_trained_and_shown(unicuco, tiny_run, tmp_path):
    result = unicuco(*tiny_run, "--seed", "3")
    assert result.exit_code == 0, result.stderr
    profile = load_profile(tmp_path / "p")
    assert profile.provenance["seed"] == 3
    assert profile.provenance["command"] == shlex.join(["unicuco", *map(str, tiny_run), "--seed", "3"])
    assert "reading calibration text …" in result.stderr
    assert "evaluations/s" in result.stderr
    assert f"unicuco strategy {tmp_path / 'p'} --sparsity 0.25" in result.stdout

    again = unicuco(*tiny_run)
    assert again.exit_code == 1
    assert "already holds profile.json and journal.sqlite; pass --resume to continue that run" in again.stderr


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_is_an_option_that_shows_its_default(name):
    command = main.get_command(None, "train")
    [option] = [option for option in command.params if option.name == name]
    assert f"--{name.replace('_', '-')}" in option.opts
    assert "default preset: " in option.help


def test_settings_start_from_a_preset(unicuco, recorded):
    unicuco(
        "train",
        "--model",
        "m",
        "--output",
        "o",
        "--preset",
        "paper",
        "--epochs",
        "3",
        "--neighbours",
        "--target",
        "auto",
    )
    [call] = recorded
    expected = PRESETS["paper"].model_dump() | {"epochs": 3, "neighbours": True, "target": "auto"}
    assert call["settings"].model_dump() == expected
    assert call["calibration"].sources == ()


def test_settings_that_nobody_gives_stay_unset_so_that_a_space_may_have_its_own(unicuco, recorded):
    unicuco("train", "--model", "m", "--output", "o", "--epochs", "3")
    [call] = recorded
    assert call["settings"].model_fields_set == {"epochs"}


@pytest.mark.parametrize(
    "spelling",
    [
        ["--calibration", "a", "b c", "--seed", "1"],
        ["--calibration", "a", "--calibration", "b c", "--seed", "1"],
        ["--seed", "1", "--calibration=a", "--calibration", "b c"],
    ],
    ids=["one option", "two options", "equals sign"],
)
def test_several_texts_follow_one_option_or_several(unicuco, recorded, spelling):
    unicuco("train", "--model", "m", "--output", "o", *spelling)
    [call] = recorded
    assert call["calibration"].sources == ("a", "b c")
    assert call["settings"].seed == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["--samples", "3", "--no-compensation"], ["--documents", "3", "--no-compensate"]),
        (["--samples=3", "--no-compensation"], ["--documents=3", "--no-compensate"]),
    ],
    ids=["apart", "equals sign"],
)
def test_old_spellings_do_what_the_new_ones_do_and_say_so(unicuco, recorded, old, new):
    told = unicuco("train", "--model", "m", "--output", "o", *old).stderr.splitlines()
    silent = unicuco("train", "--model", "m", "--output", "o", *new).stderr
    calls = [call | {"command": None, "progress": None} for call in recorded]
    assert calls[0] == calls[1]
    assert calls[0]["calibration"].documents == 3
    assert calls[0]["units"].compensate is ("--compensate" in new)
    assert told[:2] == [
        "--samples is deprecated in this command; write --documents",
        f"{old[-1]} is deprecated in this command; write {new[-1]}",
    ]
    assert "deprecated" not in silent


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "100"], "tokens must be a multiple of seq_length = 512, got 100"),
        (["--epochs", "-1"], "epochs: Input should be greater than or equal to 0, got -1"),
        (["--epochs", "many"], "Invalid value for '--epochs': 'many' is not a valid integer."),
        (["--bound", "middle"], "Invalid value for '--bound': 'middle' is not one of 'lower', 'upper', 'none'."),
        (["--preset", "cheap"], "Invalid value for '--preset': 'cheap' is not one of 'default', 'thorough', 'paper'."),
        (["stray.txt"], "Got unexpected extra argument (stray.txt)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_setting_out_of_range_is_refused(unicuco, recorded, arguments, message):
    result = unicuco("train", "--model", "m", "--output", "o", *arguments)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == f"Error: {message}"
    assert recorded == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--model": "/nowhere"}, "/nowhere: no such model folder"),
        ({"--calibration": "nowhere.txt"}, "calibration file nowhere.txt does not exist"),
        (
            {"--space": "height"},
            "space must be one of compound, depth, precision, sparsity, structured, sublayer; got 'height'",
        ),
        ({"--scalarization": "sum"}, "scalarization must be one of pbi, pbi_0.1, tchebycheff, weighted_sum; got 'sum'"),
        ({"--tokens": "1048576"}, "is too short: needs"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_training_that_cannot_start_is_one_line(unicuco, tiny_run, changes, message):
    result = unicuco(*tiny_run, *(part for pair in changes.items() for part in pair))
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture
def heeded_interrupts():
    """A job in the background of a script starts with Ctrl-C ignored, and would hand that on to the command."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("heeded_interrupts")
@pytest.mark.parametrize(
    ("moment", "message", "usable"),
    [
        ("first strategies: ", "stopped too early to answer; {} keeps what was measured, go on with the same ", False),
        ("epoch 1 of 50: ", "stopped early; {} can be used as it is, or go on with the same ", True),
    ],
)
def test_ctrl_c_says_how_to_go_on(unicuco, tiny_run, moment, message, usable):
    output = tiny_run[tiny_run.index("--output") + 1]
    command = [str(Path(sys.executable).with_name("unicuco")), *tiny_run, "--epochs", "50", "--steps", "3000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        read = []
        for line in run.stderr:
            read.append(line)
            if moment in line and " measured, " in line:
                run.send_signal(signal.SIGINT)
                break
        _, rest = run.communicate(timeout=120)
    assert run.returncode == 130, "".join(read) + rest
    assert message.format(output) + "command and --resume" in rest
    assert (unicuco("strategy", output, "--sparsity", "0.3").exit_code == 0) is usable
