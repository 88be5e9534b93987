"""The command itself: what it lists, how fast it starts, and what every error becomes."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from unicuco_plugin.cli.main import CommandGroup, main
from unicuco_plugin.errors import ProfileError

COMMANDS = main.list_commands(None)


def group_around(function):
    """A group like ours whose one command is a function."""

    class Group(CommandGroup):
        def get_command(self, ctx, cmd_name):
            return self.commands.get(cmd_name)

    group = Group("unicuco", params=main.params)
    command = click.Command("run", callback=function, params=[main.get_command(None, "show").params[-1]])
    group.add_command(command)
    return group


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_says_of_itself(name):
    command = main.get_command(None, name)
    help_text = CliRunner().invoke(main, ["--help"]).stdout
    sentence = " ".join(command.help.split("\n\n")[0].split())
    assert sentence in " ".join(help_text.split())
    assert command.name == name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name):
    page = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
    assert f"\n## unicuco {name}\n" in page.read_text(encoding="utf8")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_takes_debug(name):
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert "--debug" in result.stdout


def test_the_version_is_the_packages():
    assert CliRunner().invoke(main, ["--version"]).stdout.startswith("unicuco, version 0.")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], {"torch", "transformers", "llmcompressor", "botorch"}),
        (["show", "--help"], {"torch", "transformers", "llmcompressor", "botorch"}),
        (["strategy", "PROFILE", "--sparsity", "0.3"], {"transformers", "llmcompressor", "botorch", "datasets"}),
    ],
    ids=["help", "help of a command", "strategy"],
)
def test_what_is_slow_to_import_stays_out(arguments, absent, profile):
    arguments = [str(profile) if argument == "PROFILE" else argument for argument in arguments]
    program = (
        "import sys\nfrom unicuco_plugin.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert end.code == 0, end\n"
        "print(*sorted(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert absent & set(run.stdout.splitlines()[-1].split()) == set()


def test_our_own_errors_are_one_line_and_exit_code_1():
    def fail():
        raise ProfileError("profile p is damaged:\n  at line 3")

    result = CliRunner().invoke(group_around(fail), ["run"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: profile p is damaged: at line 3\n"


def test_an_unexpected_error_says_how_to_see_more():
    def fail():
        raise ZeroDivisionError("by zero")

    result = CliRunner().invoke(group_around(fail), ["run"])
    assert result.exit_code == 1
    assert result.stderr == "error: ZeroDivisionError: by zero (run with --debug for the traceback)\n"


@pytest.mark.parametrize("arguments", [["--debug", "run"], ["run", "--debug"]], ids=["group", "command"])
@pytest.mark.parametrize("error", [ProfileError("wrong"), ZeroDivisionError("wrong")], ids=["ours", "unexpected"])
def test_debug_shows_the_traceback(arguments, error):
    def fail():
        raise error

    result = CliRunner().invoke(group_around(fail), arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback (most recent call last)")
    assert "in fail" in result.stderr
    assert "run with --debug" not in result.stderr


def test_ctrl_c_is_exit_code_130():
    def fail():
        raise KeyboardInterrupt

    result = CliRunner().invoke(group_around(fail), ["run"])
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


@pytest.mark.slow
def test_a_reader_that_has_gone_is_no_error(profile):
    unicuco = Path(sys.executable).with_name("unicuco")
    run = subprocess.run(
        ["bash", "-c", f"{unicuco} show {profile} | true"], capture_output=True, text=True, check=False
    )
    assert run.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bogus"], "Error: No such command 'bogus'."),
        (["show"], "Error: Missing argument 'PROFILE'."),
        (["show", "p", "--nonsense"], "Error: No such option '--nonsense'."),
        (["evaluate", "--model", "m"], "Error: give TEXT, --tasks or both"),
        (["evaluate", "--model", "m", "t", "--windows", "0"], "Error: Invalid value for '--windows': 0 is not in"),
        (
            ["evaluate", "--model", "m", "t", "--device", "abacus"],
            "Error: Invalid value for '--device': 'abacus' cannot",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_wrong_option_is_exit_code_2(arguments, message):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.slow
def test_the_installed_command_exits_with_these_codes(tmp_path):
    def code(*arguments):
        installed = Path(sys.executable).with_name("unicuco")  # on no PATH unless the environment is activated
        return subprocess.run([installed, *arguments], capture_output=True, check=False).returncode

    assert [code("--version"), code("show", str(tmp_path / "none")), code("bogus")] == [0, 1, 2]
