"""What a step of a measurement makes of single forwards."""

import pytest

from unicuco_plugin.timing.profile import _Heard


def test_what_falls_on_one_module_at_a_time_is_in_the_sum_all_the_same():
    heard = _Heard()
    for turn in range(5):  # each forward is interrupted for 4 ms in another module
        taken = {f"m{place}": 1.0 + 4.0 * (place == turn) for place in range(5)}
        heard.note("decode", 5.0 + sum(taken.values()), taken)
    rest, each = heard.medians("decode")
    assert rest + sum(each.values()) == pytest.approx(14.0)
    assert rest == pytest.approx(5.0 * 14.0 / 10.0)
    assert each == pytest.approx(dict.fromkeys(each, 1.4))


def test_where_nothing_interrupts_medians_are_what_was_heard():
    heard = _Heard()
    for _ in range(3):
        heard.note("prefill", 6.0, {"a": 1.0, "b": 2.0})
    assert heard.medians("prefill") == (pytest.approx(3.0), {"a": pytest.approx(1.0), "b": pytest.approx(2.0)})
