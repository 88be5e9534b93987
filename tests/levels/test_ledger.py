"""The record of a build grows on disk, in the model's order, whoever adds to it first."""

import threading

from broken_builds import contents

from unicuco_plugin.levels.ledger import Ledger
from unicuco_plugin.levels.record import RECORD, read_record, write_record


def ledger_of(levels, folder):
    """A build of that database of which nothing is done."""
    record = levels.record.model_copy(update={"linears": {}, "seconds": 0.0})
    folder.mkdir()
    write_record(folder, record)
    return Ledger(folder, record, lambda _: None)


def test_linears_that_threads_add_in_any_order_are_recorded_in_the_models(levels, tmp_path):
    ledger, entries = ledger_of(levels, tmp_path / "db"), levels.record.linears
    threads = [threading.Thread(target=ledger.add, args=pair) for pair in reversed(entries.items())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    found = read_record(tmp_path / "db")
    assert list(found.linears.items()) == list(entries.items())
    assert found.complete
    assert ledger.left(entries) == []
    assert contents(tmp_path / "db") == {}


def test_what_is_left_out_is_no_longer_expected(levels, tmp_path):
    ledger, [first, second, *rest] = ledger_of(levels, tmp_path / "db"), levels.record.expected
    ledger.add(second, levels.record.linears[second])
    ledger.leave_out([first])
    assert ledger.left([first, second, rest[0]]) == [rest[0]]
    assert read_record(tmp_path / "db").expected == (second, *rest)
    ledger.leave_out([])
    assert (tmp_path / "db" / RECORD).exists()
