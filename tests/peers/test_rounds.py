"""Steps on disk."""

import pytest

from unicuco_plugin.errors import JournalError
from unicuco_plugin.peers.rounds import Rounds


def test_steps_come_back_in_order_past_ten(tmp_path):
    with Rounds(tmp_path / "j", {"seed": 1}) as rounds:
        for number in range(12):
            rounds.add({"number": number})
    with Rounds(tmp_path / "j", {"seed": 1}) as rounds:
        assert [rounds[i]["number"] for i in range(len(rounds))] == list(range(12))
        rounds.add({"number": 12})
        assert len(rounds) == 13


def test_a_step_is_made_once_and_only_where_it_is_the_next(tmp_path):
    made = []
    for _ in range(2):
        with Rounds(tmp_path / "j", {"seed": 1}) as rounds:
            for number in range(3):
                assert rounds.once(number, lambda number=number: made.append(number) or {"n": number}) == {"n": number}
            with pytest.raises(IndexError):
                rounds.once(5, dict)
    assert made == [0, 1, 2]


def test_another_searchs_journal_is_refused(tmp_path):
    with Rounds(tmp_path / "j", {"seed": 1}):
        pass
    with pytest.raises(JournalError, match=r"belongs to other arguments: seed was 1, is now 2"):
        Rounds(tmp_path / "j", {"seed": 2})


def test_without_a_path_nothing_is_written(tmp_path):
    with Rounds(None, {}) as rounds:
        rounds.add({"a": 1})
        assert rounds[0] == {"a": 1}
    assert list(tmp_path.iterdir()) == []
