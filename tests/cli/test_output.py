"""Names of strangers on the terminal: every command prints by one function, which escapes them."""

import ast
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from hostile_names import NAMES

from unicuco_plugin import cli, profile
from unicuco_plugin.cli.failure import Failure
from unicuco_plugin.cli.output import say
from unicuco_plugin.cli.progress import ProgressBars
from unicuco_plugin.levels import record
from unicuco_plugin.strategy import Strategy
from unicuco_plugin.training import Progress

# No document of ours may hold a lone surrogate.
SENT = {place: name for place, name in NAMES.items() if place != "surrogate"}
MODULES = [path for path in Path(cli.__file__).parent.glob("*.py") if path.name != "output.py"]
PRINTING = {"print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write", "echo", "secho"}


def is_plain(text):
    return all(character == "\n" or character.isprintable() for character in text)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_no_other_module_prints(module):
    tree = ast.parse(module.read_text(encoding="utf8"))
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert PRINTING.isdisjoint(calls)


@pytest.mark.parametrize("err", [False, True])
def test_control_characters_are_escaped_and_lines_stay_lines(capsys, err):
    say("a\x1b[2J\u202e\n\tb\ud800é", err=err)
    assert capsys.readouterr()[err] == "a\\u001b[2J\\u202e\n\tb\\ud800é\n"


@pytest.fixture(scope="module")
def resigned(profile, tmp_path_factory):
    """The profile as strangers may send it, its digest right, under a name of theirs throughout."""
    sent = {"usual": "usual", **NAMES}
    return {place: hostile_profile(profile, tmp_path_factory.mktemp("sent"), name) for place, name in sent.items()}


def hostile_profile(source, root, name):
    folder = shutil.copytree(source, root / "profile")
    path = folder / "profile.json"
    content = profile_document.read(path)
    content["model"]["name"] = content["name"] = name
    content["units"] = [f"{unit}{name}" for unit in content["units"]]
    content["provenance"] |= {"command": name, name: name, "versions": {name: name}}
    sign(profile_document, path, content)
    return folder


profile_document = profile._DOCUMENT


def sign(document, path, content):
    """Write it as a stranger would, who may escape in JSON what no file can hold."""
    content = {"schema": 1, **content}
    from unicuco_plugin.signed import _digest

    path.write_text(json.dumps(content | {"digest": _digest(content)}))


@pytest.mark.slow
@pytest.mark.parametrize("name", SENT)
@pytest.mark.parametrize("command", [("show",), ("strategy", "--sparsity", "0.3")], ids=lambda command: command[0])
def test_names_in_a_profile_are_text_in_one_line(unicuco, resigned, name, command):
    verb, *options = command
    usual, shown = unicuco(verb, resigned["usual"], *options), unicuco(verb, resigned[name], *options)
    assert shown.exit_code == 0, shown.stderr
    assert is_plain(shown.stdout)
    assert shown.stdout.count("\n") == usual.stdout.count("\n")


def test_a_name_that_no_file_could_hold_is_refused_in_one_line(unicuco, resigned):
    shown = unicuco("show", resigned["surrogate"])
    assert shown.exit_code == 1
    assert "unable to parse raw data as a unicode string, got 'a\\ud800b'" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", SENT)
def test_json_keeps_every_name(unicuco, resigned, name):
    result = unicuco("strategy", resigned[name], "--sparsity", "0.3", "--json")
    assert is_plain(result.stdout)
    answer = Strategy.from_dict(json.loads(result.stdout))
    assert answer.model.name == NAMES[name]
    assert all(unit.endswith(NAMES[name]) for unit in answer.units)
    data = json.loads(unicuco("show", resigned[name], "--json").stdout)
    assert data["model"]["name"] == NAMES[name]


@pytest.mark.slow
def test_names_in_a_picture_are_drawn(unicuco, resigned, tmp_path):
    for place in ("mathematics", "two marks", "clears", "newline"):
        result = unicuco("show", resigned[place], "--plot", tmp_path / "front.png")
        assert result.exit_code == 0, (place, result.stderr)


@pytest.mark.slow
def test_names_in_a_level_database_are_text_in_one_line(unicuco, dense, text, tmp_path):
    options = ["--calibration", text, "--samples", 2, "--seq-length", 16, "--sparsities", "0.3"]
    usual = unicuco("levels", "build", "--model", dense, "--output", tmp_path, *options)
    assert usual.exit_code == 0, usual.stderr
    lines = unicuco("levels", "show", tmp_path).stdout.count("\n")
    path = tmp_path / record.RECORD
    before = record._DOCUMENT.read(path)
    for name in SENT.values():
        content = before | {"model": before["model"] | {"name": name}, "device": name, "versions": {name: name}}
        content["calibration"] = content["calibration"] | {"sources": [name]}
        sign(record._DOCUMENT, path, content)
        shown = unicuco("levels", "show", tmp_path)
        assert shown.exit_code == 0, shown.stderr
        assert is_plain(shown.stdout)
        assert shown.stdout.count("\n") == lines
        assert json.loads(unicuco("levels", "show", tmp_path, "--json").stdout)["model"]["name"] == name


def test_an_error_is_one_line_of_three_hundred_characters_that_ends_with_what_to_do(capsys):
    Failure(f"profile {'x' * 10**6}\x1b[2J\nis damaged; train it again").show()
    shown = capsys.readouterr().err
    assert len(shown) == 301
    assert shown.startswith("error: profile xxx")
    assert shown.endswith("xxx\\u001b[2J is damaged; train it again\n")


def test_a_traceback_is_escaped():
    from test_main import group_around

    def fail():
        raise ValueError("a\x1b[2J\u202e")

    result = CliRunner().invoke(group_around(fail), ["run", "--debug"])
    assert "ValueError: a\\u001b[2J\\u202e\n" in result.stderr
    assert is_plain(result.stderr)


@pytest.mark.parametrize("total", [1, 4])
def test_progress_is_escaped(capsys, total):
    with ProgressBars() as bars:
        bars(Progress("a\x1b[2J\nb", 0, total, 0, ""))
        bars(Progress("a\x1b[2J\nb", min(1, total - 1), total, 9, "c\x9b\u202ed"))
    shown = capsys.readouterr().err
    assert is_plain(shown)
    assert "a\\u001b[2J\\u000ab" in shown
