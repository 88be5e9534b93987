"""The bar of a training run, as text on standard error."""

import pytest

from unicuco_plugin.cli import progress
from unicuco_plugin.cli.progress import ProgressBars
from unicuco_plugin.training import Progress


@pytest.fixture
def shown(capsys):
    """Show events; return the lines on standard error, the last picture of each."""

    def run(*events, finish=False):
        with ProgressBars() as bars:
            for event in events:
                bars(event)
            if finish:
                bars.finish()
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "\r" not in captured.err  # a log file is no terminal
        return captured.err.splitlines()

    return run


def test_what_cannot_be_counted_is_one_line(shown):
    assert shown(*[Progress("loading the model", 0, 1, 0, "")] * 2) == ["loading the model …"]


def test_the_bar_has_a_rate_the_time_left_and_the_tokens(shown):
    *_, line = shown(Progress("ranking", 0, 100, 0, ""), Progress("ranking", 50, 100, 51200, ""))
    assert line.startswith("ranking:  50%")
    assert "50/100 [00:0" in line
    assert "evaluations/s, 51,200 tokens]" in line


def test_a_message_stands_above_the_bar(shown):
    lines = shown(Progress("ranking", 1, 4, 9, ""), Progress("confirming", 2, 4, 9, "2 measured"))
    assert lines[1] == "2 measured"
    assert lines[2].startswith("confirming:  50%")


def test_a_message_is_shown_where_nothing_is_counted_too(shown):
    fewer = Progress("measuring", 0, 1, message="strategies are measured 2 at a time")
    assert shown(fewer) == ["strategies are measured 2 at a time"]
    lines = shown(Progress("ranking", 1, 4, 9, ""), fewer, Progress("ranking", 2, 4, 9, ""))
    assert "strategies are measured 2 at a time" in lines
    assert "2/4" in lines[-1]


def test_a_log_gets_a_line_now_and_then(shown, monkeypatch):
    clock = iter(range(1000, 2000, 11))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    lines = shown(*[Progress("ranking", done, 50, 9, "") for done in range(40)])
    assert 8 < len(lines) < 20


def test_steps_of_an_earlier_run_do_not_count_for_the_rate(shown):
    *_, line = shown(Progress("ranking", 30, 40, 9, ""))
    assert "30/40" in line and "?" in line


def test_a_run_that_needed_fewer_evaluations_ends_full(shown):
    *_, line = shown(Progress("ranking", 1, 4, 9, ""), Progress("ranking", 2, 4, 9, ""), finish=True)
    assert "100%" in line and "2/2" in line


def test_a_terminal_gets_a_bar_in_place(shown, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with ProgressBars() as bars:
        bars(Progress("ranking", 1, 4, 9, ""))
        bars(Progress("confirming", 1, 4, 9, ""))
    shown_text = capsys.readouterr().err
    assert shown_text.count("\r") > 1 and "confirming:  25%" in shown_text
