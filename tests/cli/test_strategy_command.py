"""``unicuco strategy``: one request, or a file of them, and every kind of nonsense."""

import json
import shutil

import pytest

from unicuco_plugin.answering import load_profile
from unicuco_plugin.strategy import Strategy

TWO = "is not two numbers such as 0.3,0.7 or bytes=0.3,divergence=0.7"


def test_json_is_the_answer_of_the_profile_on_one_line(unicuco, profile):
    result = unicuco("strategy", profile, "--sparsity", "0.3", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    [line] = result.stdout.splitlines()
    assert Strategy.from_dict(json.loads(line)) == load_profile(profile).answer(sparsity=0.3)


@pytest.mark.parametrize(
    ("option", "value", "request_data"),
    [
        ("--sparsity", "0.25", {"sparsity": 0.25}),
        ("--max-params", "30000", {"max_params": 30000}),
        ("--max-bytes", "120kB", {"max_bytes": 120000}),
        ("--max-divergence", "1000", {"max_divergence": 1000.0}),
        ("--preference", "1,3", {"preference": [0.25, 0.75]}),
        ("--preference", "params=1,divergence=3", {"preference": [0.25, 0.75], "over": ["params", "divergence"]}),
    ],
)
def test_every_kind_of_request_has_its_option(unicuco, profile, option, value, request_data):
    result = unicuco("strategy", profile, option, value, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["request"] == request_data


def test_a_file_of_requests_gives_one_line_each(unicuco, profile, tmp_path):
    requests = tmp_path / "requests.jsonl"
    requests.write_text("".join(f'{{"sparsity": {share}}}\n' for share in (0.1, 0.3, 0.5)))
    result = unicuco("strategy", profile, "--request-file", requests, "--json")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["request"]["sparsity"] for answer in answers] == [0.1, 0.3, 0.5]
    assert [len(answer["units"]) for answer in answers] == [1, 2, 3]


def test_limits_are_given_together_in_options_or_a_line(unicuco, profile, tmp_path):
    (tmp_path / "requests.jsonl").write_text('{"sparsity": 0.1, "max_bytes": "120kB", "max_divergence": 1000}')
    asked = ["--sparsity", "0.1", "--max-bytes", "120kB", "--max-divergence", "1000"]
    results = [
        unicuco("strategy", profile, *how, "--json") for how in (asked, ["--request-file", tmp_path / "requests.jsonl"])
    ]
    assert results[0].stdout == results[1].stdout
    answer = json.loads(results[0].stdout)
    assert answer["request"] == {"sparsity": 0.1, "max_bytes": 120000, "max_divergence": 1000.0}
    assert answer["bytes"] <= 120000
    shown = unicuco("strategy", profile, *asked).stdout.splitlines()[2]
    assert shown.startswith("sparsity 0.1, max_bytes 120,000, max_divergence 1,000.0  ")


def test_limits_that_exclude_each_other_say_how_much_each_would_have_to_give(unicuco, profile):
    result = unicuco("strategy", profile, "--max-params", "12000", "--max-divergence", "0.01")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: max_divergence ")


def test_memory_is_shown_in_its_parts(unicuco, profile):
    load = ["--context", "64", "--batch", "2", "--cache-dtype", "fp8"]
    data = json.loads(unicuco("strategy", profile, "--sparsity", "0.3", *load, "--json").stdout)
    assert data["request"] == {"sparsity": 0.3, "context": 64, "batch": 2, "cache_dtype": "fp8"}
    memory = data["memory"]
    assert memory["weights"] == data["bytes"]
    assert memory["cache"] == 4 * 2 * 64 * 32  # four blocks stay, of 32 numbers a token
    limit = sum(memory.values())
    again = json.loads(unicuco("strategy", profile, "--max-memory", limit, *load, "--json").stdout)
    assert again["units"] == data["units"]
    lines = unicuco("strategy", profile, "--max-memory", limit, *load).stdout.splitlines()
    assert lines[0].split()[-4:] == ["weights", "cache", "buffers", "memory"]
    assert f"max_memory {limit:,}, context 64, batch 2, cache_dtype fp8" in lines[2]


def test_a_folder_of_profiles_says_whose_answer_is_best(unicuco, profile, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(profile, tmp_path / name)
    lines = unicuco("strategy", tmp_path, "--sparsity", "0.3").stdout.splitlines()
    assert lines[0].endswith("profile")
    assert lines[2].endswith("one")
    (tmp_path / "two" / "profile.json").write_text("{}")
    damaged = unicuco("strategy", tmp_path, "--sparsity", "0.3")
    assert (damaged.exit_code, damaged.stdout) == (1, "")
    assert "two/profile.json is damaged" in damaged.stderr


def test_people_get_a_table_and_the_units(unicuco, profile):
    lines = unicuco("strategy", profile, "--sparsity", "0.3").stdout.splitlines()
    assert lines[0].split()[:4] == ["request", "units", "sparsity", "params"]
    assert lines[2].startswith("sparsity 0.3      2    0.3333  35.1 k  144.4 kB")
    assert lines[-1].startswith("removes model.layers ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one request (--sparsity, --max-params, …) or --request-file"),
        (
            ["--sparsity", "0.3", "--request-file", "f"],
            "give one request (--sparsity, --max-params, …) or --request-file",
        ),
        (["--preference", "1"], f"Invalid value for '--preference': '1' {TWO}"),
        (["--preference", "bytes=1,2,3"], f"Invalid value for '--preference': 'bytes=1,2,3' {TWO}"),
        (["--sparsity", "a quarter"], "Invalid value for '--sparsity': 'a quarter' is not a valid float."),
        (["--max-params", "1.5"], "Invalid value for '--max-params': '1.5' is not a valid integer."),
    ],
    ids=["none", "and a file", "half a preference", "three weights", "words", "half a parameter"],
)
def test_a_command_line_without_one_request_is_refused(unicuco, profile, arguments, message):
    result = unicuco("strategy", profile, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == f"Error: {message}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sparsity", "1.0"], "sparsity must be in (0, 1), got 1.0"),
        (["--sparsity", "nan"], "sparsity must be in (0, 1), got nan"),
        (["--sparsity", "0.99"], "sparsity must be at most 0.833333 for this profile (5 of 6 units), got 0.99"),
        (["--max-params", "-1"], "max_params must be positive, got -1"),
        (["--max-params", "5"], "max_params must be at least 11872 for this profile"),
        (["--max-bytes", "6 bags"], "max_bytes must be a number of bytes such as 6000000, 6GB or 5.5GiB, got '6 bags'"),
        (["--max-bytes", "1kB"], "max_bytes must be at least"),
        (["--max-divergence", "1e-9"], "max_divergence must be at least"),
        (["--max-divergence", "inf"], "max_divergence must be positive and finite, in nats per token, got inf"),
        (
            ["--preference=-1,2"],
            "preference must be two non-negative numbers (size, quality), not both 0, got (-1.0, 2.0)",
        ),
        (["--request-file", "nowhere.jsonl"], "request file nowhere.jsonl cannot be read: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_request_that_cannot_be_met_is_one_line(unicuco, profile, arguments, message):
    result = unicuco("strategy", profile, *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{sparsity: 0.3}", "Expecting property name enclosed in double quotes"),
        ("0.3", """expected an object such as {"sparsity": 0.25}, got '0.3'"""),
        ('{"sparsity": 0.3, "max_params": 0}', "max_params must be positive, got 0"),
        ('{"spasity": 0.3}', "unknown field 'spasity'"),
    ],
    ids=["not JSON", "a number", "a limit of nothing", "a typing error"],
)
def test_a_bad_line_of_a_request_file_is_named(unicuco, profile, tmp_path, line, message):
    requests = tmp_path / "requests.jsonl"
    requests.write_text(f'{{"sparsity": 0.3}}\n\n{line}\n')
    result = unicuco("strategy", profile, "--request-file", requests, "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {requests}, line 3: {message}")


def test_a_profile_that_is_not_there_is_refused(unicuco, tmp_path):
    result = unicuco("strategy", tmp_path / "none", "--sparsity", "0.3")
    assert result.exit_code == 1
    assert result.stderr.startswith(
        f"error: no profile at {tmp_path / 'none'}: neither a folder nor a packaged profile"
    )


@pytest.mark.parametrize("name", ["profile.json", "stratnet", "surrogate"])
def test_a_truncated_profile_is_refused(unicuco, profile, tmp_path, name):
    copy = shutil.copytree(profile, tmp_path / "copy")
    [path] = [path for path in copy.iterdir() if path.name.startswith(name)]
    path.write_bytes(path.read_bytes()[:-20])
    result = unicuco("strategy", copy, "--sparsity", "0.3")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: profile {'' if name == 'profile.json' else 'file '}{path} ")


def test_an_edited_profile_is_refused(unicuco, profile, tmp_path):
    path = shutil.copytree(profile, tmp_path / "copy") / "profile.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    assert "was edited or damaged" in unicuco("strategy", path.parent, "--sparsity", "0.3").stderr
