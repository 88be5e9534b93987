"""Tables and numbers for people."""

import pytest

from unicuco_plugin.report.table import format_bytes, format_count, format_seconds, format_table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0 k"),
        (134_515_008, "134.5 M"),
        (999_960, "1.0 M"),
        (7e12, "7.0 T"),
        (5e16, "50000.0 T"),
    ],
)
def test_counts_have_four_digits(value, text):
    assert format_count(value) == text


@pytest.mark.parametrize(("value", "text"), [(12, "12 B"), (212_400_000, "212.4 MB"), (1_500, "1.5 kB")])
def test_bytes_are_in_powers_of_a_thousand(value, text):
    assert format_bytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.4217, "0.42 s"), (12.34, "12.3 s"), (245, "4 min 05 s"), (59.96, "60.0 s"), (7800, "2 h 10 min")],
)
def test_seconds_are_read_as_durations(value, text):
    assert format_seconds(value) == text


def test_columns_are_aligned():
    table = format_table(("name", "n"), [("a", "10"), ("longer", "1")], right=[1])
    assert table == "name     n\n------  --\na       10\nlonger   1"


def test_a_table_may_be_empty():
    assert format_table(("name", "n"), []) == "name  n\n----  -"
