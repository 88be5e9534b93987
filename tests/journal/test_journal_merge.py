"""What one journal holds is taken into another, once; copies are whole."""

import pytest

from unicuco_plugin.errors import JournalError
from unicuco_plugin.journal.journal import Journal, Measurement
from unicuco_plugin.journal.merge import merge_journal, remove_journal

HEADER = {"model": "m"}


def measured(key, fidelity="rank", value=1.0):
    return Measurement(key, fidelity, value, (value, -0.0), 7, 0.25)


@pytest.fixture
def journal(tmp_path):
    with Journal.open(tmp_path / "j", HEADER, resume=False) as opened:
        opened.record([measured("a"), measured("b"), measured("a", "confirm")])
        opened.write_note("n", [1])
        yield opened


def test_what_is_missing_is_taken_in_and_what_is_there_stays(journal, tmp_path):
    with Journal.open(tmp_path / "other", HEADER, resume=False) as other:
        other.record([measured("c", value=3.0), measured("b", value=9.0), measured("z", "text")])
        other.write_note("n", [2])
        other.write_note("o", {"x": 1})
        merge_journal(other, journal)
        merge_journal(other, journal)
    found = {
        (row.fidelity, row.key): row.value for row in (r for f in journal.fidelities() for r in journal.measurements(f))
    }
    assert found == {
        ("rank", "a"): 1.0, ("rank", "b"): 1.0, ("rank", "c"): 3.0, ("confirm", "a"): 1.0, ("text", "z"): 1.0,
    }  # fmt: skip
    assert [row.key for row in journal.measurements("rank")] == ["a", "b", "c"]
    assert journal.notes() == {"n": [1], "o": {"x": 1}}


def test_a_copy_holds_the_same_and_replaces_nothing(journal, tmp_path):
    journal.copy(tmp_path / "copy")
    journal.record([measured("late")])
    journal.copy(tmp_path / "copy")
    with Journal.open(tmp_path / "copy", HEADER, resume=True) as copied:
        assert copied.notes() == {"n": [1]}
        assert copied.measurements("rank") == [measured("a"), measured("b")]
        with pytest.raises(JournalError, match="in use"):
            remove_journal(tmp_path / "copy")
    remove_journal(tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("copy")) == []


def test_what_is_no_journal_is_not_removed(tmp_path):
    (tmp_path / "mine").write_bytes(b"mine")
    with pytest.raises(JournalError, match="is not a journal of unicuco-plugin"):
        remove_journal(tmp_path / "mine")
    assert (tmp_path / "mine").read_bytes() == b"mine"
