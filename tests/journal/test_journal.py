import math
import os
import signal
import sqlite3
import struct
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unicuco_plugin.errors import JournalError
from unicuco_plugin.journal.journal import Journal, Measurement

HEADER = {"model": "m", "seed": 0, "spaces": ["depth"], "kappa": 0.1}

WRITER = """
import sys
from pathlib import Path
from unicuco_plugin.journal.journal import Journal, Measurement
with Journal.open(Path(sys.argv[1]), {"seed": 0}, resume=True) as journal:
    for number in range(int(sys.argv[2]), 10**9):
        journal.record([Measurement(f"{number}{half}", "rank", number / 7, (0.1, 0.2), 512, 0.5) for half in "ab"])
        print(number, flush=True)
"""


def row(key="a", *, fidelity="rank", value=0.25, per_window=(0.2, 0.3), tokens=2048, seconds=1.5):
    return Measurement(key, fidelity, value, tuple(per_window), tokens, seconds)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "journal.sqlite"


def bits(*values):
    return struct.pack(f"{len(values)}d", *values)


def start_writer(path, first=0):
    command = [sys.executable, "-c", WRITER, str(path), str(first)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_journal_returns_what_was_recorded_in_order(path):
    with Journal.open(path, HEADER, resume=False) as journal:
        journal.record([row("b"), row("a")])
        journal.record([row("a", fidelity="confirm"), row("c")])
        assert journal.measurements("rank") == [row("b"), row("a"), row("c")]
        assert journal.lookup("confirm", ["a", "b"]) == {"a": row("a", fidelity="confirm")}
        assert journal.measurements("other") == []


def test_a_resumed_journal_holds_the_rows_the_notes_and_the_sums_of_every_run(path):
    with Journal.open(path, HEADER, resume=False) as journal:
        journal.record([row("a", tokens=100, seconds=0.5)])
        journal.write_note("epoch", {"number": 3})
    with Journal.open(path, dict(reversed(HEADER.items())), resume=True) as journal:
        journal.record([row("b", tokens=20, seconds=0.25)])
        journal.write_note("epoch", {"number": 4})
        assert [m.key for m in journal.measurements("rank")] == ["a", "b"]
        assert journal.tokens_spent() == 120
        assert journal.seconds_spent() == 0.75
        assert journal.notes() == {"epoch": {"number": 4}}


def test_an_empty_journal_has_spent_nothing(path):
    with Journal.open(path, HEADER, resume=True) as journal:
        assert (journal.tokens_spent(), journal.seconds_spent(), journal.notes()) == (0, 0, {})


@settings(max_examples=20)  # each writes and reopens a file
@given(values=st.lists(st.floats(), min_size=1, max_size=5))
def test_floats_return_with_every_bit(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("journal") / "journal.sqlite"
    with Journal.open(path, HEADER, resume=False) as journal:
        journal.record([row(value=values[0], per_window=values, seconds=values[-1])])
    with Journal.open(path, HEADER, resume=True) as journal:
        [read] = journal.measurements("rank")
    assert bits(read.value, *read.per_window, read.seconds) == bits(values[0], *values, values[-1])


@pytest.mark.parametrize("value", [-0.0, math.nan, math.inf, 5e-324])
def test_floats_that_sqlite_would_change_return_unchanged(path, value):
    with Journal.open(path, HEADER, resume=False) as journal:
        journal.record([row(value=value)])
        assert bits(journal.lookup("rank", ["a"])["a"].value) == bits(value)


def test_a_strategy_measured_twice_is_refused_and_its_batch_not_written(path):
    with Journal.open(path, HEADER, resume=False) as journal:
        journal.record([row("a")])
        with pytest.raises(JournalError, match=r"holds one of these already: b at rank, a at rank$"):
            journal.record([row("b"), row("a")])
        assert [m.key for m in journal.measurements("rank")] == ["a"]


def test_an_existing_journal_is_not_overwritten(path):
    Journal.open(path, HEADER, resume=False).close()
    with pytest.raises(JournalError, match=r"exists: pass --resume to continue it, or choose another output$"):
        Journal.open(path, HEADER, resume=False)


def test_resuming_with_other_arguments_names_each_field_with_both_values(path):
    Journal.open(path, HEADER, resume=False).close()
    other = {"model": "m", "seed": 1, "spaces": ["depth"], "epochs": 5}
    with pytest.raises(JournalError) as caught:
        Journal.open(path, other, resume=True)
    assert str(caught.value) == (
        f"journal {path} belongs to other arguments: epochs was absent, is now 5; kappa was 0.1, is now absent; "
        "seed was 0, is now 1; resume with the same arguments, or choose another output"
    )


def test_an_edited_header_is_refused(path):
    Journal.open(path, HEADER, resume=False).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE header SET value = '7' WHERE name = 'seed'")
    connection.close()
    with pytest.raises(JournalError, match="argument 'seed' does not match its digest: it was damaged or edited"):
        Journal.open(path, HEADER, resume=True)


def test_long_arguments_are_told_from_where_they_differ(path):
    Journal.open(path, {"notes": "x" * 1000 + "a" + "y" * 1000}, resume=False).close()
    with pytest.raises(JournalError) as caught:
        Journal.open(path, {"notes": "x" * 1000 + "b" + "y" * 1000}, resume=True)
    assert f"notes was …{'x' * 20}a{'y' * 37}…, is now …{'x' * 20}b{'y' * 37}…; resume with" in str(caught.value)


def test_a_refused_journal_can_be_opened_right_after(path):
    Journal.open(path, HEADER, resume=False).close()
    with pytest.raises(JournalError):
        Journal.open(path, {}, resume=True)
    Journal.open(path, HEADER, resume=True).close()


@pytest.mark.parametrize("keep", [0, 50, 0.3, 0.6, 0.95])
def test_a_truncated_journal_is_refused(path, keep):
    with Journal.open(path, HEADER, resume=False) as journal:
        journal.record([row(f"strategy-{number}") for number in range(200)])
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(JournalError, match="is damaged"):
        Journal.open(path, HEADER, resume=True)


@pytest.mark.parametrize("content", [b"not a database", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_journal_is_refused(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(JournalError, match="is damaged or"):
        Journal.open(path, HEADER, resume=True)


def test_another_programs_database_is_refused(path):
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(JournalError, match=r"was not written by unicuco-plugin$"):
        Journal.open(path, HEADER, resume=True)


def test_a_newer_journal_is_refused(path):
    Journal.open(path, HEADER, resume=False).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 3")
    connection.close()
    with pytest.raises(JournalError, match="schema must be 2, got 3: a newer unicuco-plugin wrote"):
        Journal.open(path, HEADER, resume=True)


def test_a_folder_that_cannot_be_made_is_our_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal.open(tmp_path / "file" / "journal.sqlite", HEADER, resume=False)


def test_a_closed_journal_says_so(path):
    journal = Journal.open(path, HEADER, resume=False)
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        journal.record([row()])


def test_a_log_left_by_a_deleted_journal_is_not_replayed_into_a_new_one(path):
    with Journal.open(path, HEADER, resume=False) as journal:
        journal.record([row("old")])
        log = path.with_name(f"{path.name}-wal").read_bytes()
    path.unlink()
    path.with_name(f"{path.name}-wal").write_bytes(log)
    with Journal.open(path, HEADER, resume=False) as journal:
        assert journal.measurements("rank") == []


def test_a_run_killed_while_creating_its_journal_can_be_resumed(path):
    path.parent.mkdir()
    path.with_name(f"{path.name}.partial").write_bytes(b"half")
    with Journal.open(path, HEADER, resume=True) as journal:
        journal.record([row()])


def test_a_second_opener_in_this_process_is_refused(path):
    with Journal.open(path, HEADER, resume=False):
        for resume in (True, False):
            with pytest.raises(JournalError, match="is in use by another process"):
                Journal.open(path, HEADER, resume=resume)


def test_kill_9_loses_no_row_that_record_returned_from_and_frees_the_lock(path):
    first = 0
    for _ in range(3):
        with start_writer(path, first) as writer:
            reported = [int(writer.stdout.readline()) for _ in range(20)]
            with pytest.raises(JournalError, match="is in use by another process"):
                Journal.open(path, {"seed": 0}, resume=True)
            os.kill(writer.pid, signal.SIGKILL)
            reported += [int(line) for line in writer.stdout if line.endswith("\n")]
        with Journal.open(path, {"seed": 0}, resume=True) as journal:
            keys = [m.key for m in journal.measurements("rank")]
        rows = len(keys) // 2
        assert keys == [f"{number}{half}" for number in range(rows) for half in "ab"]
        assert rows in (reported[-1] + 1, reported[-1] + 2)  # at most the one batch whose report was cut off
        first = rows
