import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from unicuco_plugin.cli.strategy import strategy
from unicuco_plugin.costs.latency import TimedCosts
from unicuco_plugin.costs.memory import ServedCosts
from unicuco_plugin.costs.model import TableCosts
from unicuco_plugin.costs.table import CostTable, ServingTable
from unicuco_plugin.errors import RequestError
from unicuco_plugin.quantities import Load, parse_bytes
from unicuco_plugin.request import LIMITS, Request
from unicuco_plugin.request_file import read_requests

COSTS = "params, bytes, bits, memory, latency, time"
KINDS = "sparsity, max_params, max_bytes, bits, max_memory, max_latency, min_speedup, max_divergence, preference"
POSITIVE = st.floats(1e-300, 1e300)

valid_fields = st.one_of(
    st.fixed_dictionaries({"sparsity": st.floats(0, 1, exclude_min=True, exclude_max=True)}),
    st.fixed_dictionaries({"max_params": st.integers(1, 10**13)}),
    st.fixed_dictionaries({"max_bytes": st.integers(1, 10**14)}),
    st.fixed_dictionaries({"max_divergence": POSITIVE}),
    st.fixed_dictionaries({"preference": st.tuples(st.floats(0, 1e300), POSITIVE)}),
    st.fixed_dictionaries({"max_memory": st.integers(1, 10**14), "sparsity": st.just(0.5)}).map(
        lambda fields: fields | {"context": 8192, "batch": 8, "cache_dtype": "fp8"}
    ),
    st.fixed_dictionaries({"sparsity": st.just(0.5), "max_bytes": st.integers(1, 10**14), "max_divergence": POSITIVE}),
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("6000000", 6_000_000),
        ("6GB", 6 * 10**9),
        ("5.5GiB", 11 * 2**29),
        (" 5.5 gib ", 11 * 2**29),
        (".5k", 500),
        ("1e3 MB", 10**9),
        ("2T", 2 * 10**12),
        ("9007199254740993", 9007199254740993),
        ("0.1 kB", 100),
    ],
)
def test_bytes_are_read_with_decimal_and_binary_units(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1", "1.2.3", "6 XB", "6iB", "nan", "inf", "1,5GB", "0", "0.1", "1e999"])
def test_text_that_is_no_positive_number_of_bytes_is_refused(text):
    with pytest.raises(
        RequestError, match=r"^max_bytes must be a number of bytes such as 6000000, 6GB or 5.5GiB, got '"
    ):
        parse_bytes(text)


@given(fields=valid_fields)
def test_a_request_survives_json(fields):
    request = Request.of(**fields)
    assert request.to_dict().keys() == fields.keys()
    assert fields.keys() - {"context", "batch", "cache_dtype"} == set(request.kinds) == set(request.kind.split("+"))
    assert Request.of(**json.loads(json.dumps(request.to_dict()))) == request


def test_bytes_may_carry_a_unit():
    assert Request.of(max_bytes="6GB").to_dict() == {"max_bytes": 6 * 10**9}


@given(size=st.floats(0, 1e300), quality=POSITIVE)
def test_a_preference_is_scaled_to_sum_to_one(size, quality):
    a, b = Request.of(preference=(size, quality)).preference
    assert a + b == pytest.approx(1.0, abs=1e-15)
    assert a == pytest.approx(size / (size + quality), abs=1e-15)


def test_requests_are_frozen_and_hashable():
    request = Request.of(sparsity=0.5)
    with pytest.raises(ValidationError, match="frozen"):
        request.sparsity = 0.6
    assert {request} == {Request.of(sparsity=0.5)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sparsity": 1.0}, "sparsity must be in (0, 1), got 1.0"),
        ({"sparsity": 0.0}, "sparsity must be in (0, 1), got 0.0"),
        ({"sparsity": float("nan")}, "sparsity must be in (0, 1), got nan"),
        ({"max_params": 0}, "max_params must be positive, got 0"),
        ({"max_bytes": -5}, "max_bytes must be positive, got -5"),
        (
            {"max_bytes": "6 XB"},
            "max_bytes must be a number of bytes such as 6000000, 6GB or 5.5GiB, got '6 XB'",
        ),
        ({"max_divergence": 0.0}, "max_divergence must be positive and finite, in nats per token, got 0.0"),
        ({"max_divergence": float("inf")}, "max_divergence must be positive and finite, in nats per token, got inf"),
        (
            {"preference": (0, 0)},
            "preference must be two non-negative numbers (size, quality), not both 0, got (0.0, 0.0)",
        ),
        (
            {"preference": (1, float("nan"))},
            "preference must be two non-negative numbers (size, quality), not both 0, got (1.0, nan)",
        ),
        (
            {"preference": (-1, 2)},
            "preference must be two non-negative numbers (size, quality), not both 0, got (-1.0, 2.0)",
        ),
        ({}, f"a request has one or more of {KINDS}; got none"),
        ({"sparsity": None}, f"a request has one or more of {KINDS}; got none"),
        ({"sparsity": 0.5, "max_params": 0}, "max_params must be positive, got 0"),
        (
            {"sparsity": 0.5, "over": ("bytes", "bits")},
            "over says what a preference weighs, got ('bytes', 'bits') and no preference",
        ),
        (
            {"preference": (1, 1), "over": ("bytes", "bytes")},
            f"over must name two of {COSTS}, divergence, got ('bytes', 'bytes')",
        ),
        (
            {"preference": (1, 1), "over": ("bytes", "price")},
            f"over must name two of {COSTS}, divergence, got ('bytes', 'price')",
        ),
        ({"max_memory": 9}, "max_memory needs context, the tokens of a sequence, such as 8192; got none"),
        ({"sparsity": 0.5, "batch": 2}, "batch needs context, the tokens of a sequence, such as 8192; got none"),
        (
            {"max_memory": "6 XB", "context": 9},
            "max_memory must be a number of bytes such as 6000000, 6GB or 5.5GiB, got '6 XB'",
        ),
        ({"sparsity": 0.5, "context": 0}, "context: Input should be greater than 0, got 0"),
        ({"context": 8192, "batch": 2}, f"a request has one or more of {KINDS}; got none"),
        ({"max_params": 10**18 + 1}, f"max_params must be at most 10**18, got {10**18 + 1}"),
        ({"max_params": 10**100}, "max_params must be at most 10**18, got 1" + 58 * "0" + "…"),
        ({"max_bytes": "1e99T"}, "max_bytes must be at most 10**18, got 1" + 58 * "0" + "…"),
        ({"ratio": 0.5}, f"unknown field 'ratio'; a request has one or more of {KINDS}"),
        ({"cls": 0.5}, f"unknown field 'cls'; a request has one or more of {KINDS}"),
    ],
)
def test_a_wrong_request_names_the_field_the_rule_and_the_value(fields, message):
    with pytest.raises(RequestError) as caught:
        Request.of(**fields)
    assert str(caught.value) == message


@pytest.mark.parametrize("value", ["much", [0.5], {}])
def test_a_value_of_another_type_names_the_field_and_the_value(value):
    with pytest.raises(RequestError) as caught:
        Request.of(sparsity=value)
    assert str(caught.value).startswith("sparsity: ")
    assert str(caught.value).endswith(f", got {value!r}")


def test_a_file_holds_one_request_a_line_and_blank_lines(tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_text('{"sparsity": 0.25}\n\n{"max_bytes": "6GB"}\n', encoding="utf8")
    assert read_requests(path) == [Request.of(sparsity=0.25), Request.of(max_bytes=6 * 10**9)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"sparsity": 2}', r"sparsity must be in \(0, 1\), got 2.0"),
        ("[0.25]", r'expected an object such as \{"sparsity": 0.25\}, got \'\[0.25\]\''),
        ('{"sparsity"', "Expecting"),
        ('{"cls": 1}', "unknown field 'cls'"),
        ('{"max_params": ' + "9" * 5000 + "}", "Exceeds the limit"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(tmp_path, line, reason):
    path = tmp_path / "requests.jsonl"
    path.write_text(f'{{"sparsity": 0.25}}\n\n{line}\n', encoding="utf8")
    with pytest.raises(RequestError, match=f"requests.jsonl, line 3: {reason}"):
        read_requests(path)


def test_a_file_without_requests_is_refused(tmp_path):
    (tmp_path / "empty").write_text("\n \n", encoding="utf8")
    with pytest.raises(RequestError, match=r"holds no request; write one JSON object per line$"):
        read_requests(tmp_path / "empty")


def test_a_missing_or_binary_file_is_our_error(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("missing", "binary"):
        with pytest.raises(RequestError, match=f"{name} cannot be read"):
            read_requests(tmp_path / name)


def test_many_digits_are_no_number_of_bytes():
    with pytest.raises(RequestError) as caught:
        parse_bytes("1" * 100_000)
    assert str(caught.value) == (
        "max_bytes must be a number of bytes such as 6000000, 6GB or 5.5GiB, got '" + 58 * "1" + "…"
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[" * 5_000, "is nested too deeply"),
        ('{"max_bytes": "' + 9_980 * "1" + '"}', "max_bytes must be a number of bytes"),
        ("[" * 10_001, "a request must have at most 10000 characters, got 10001$"),
    ],
    ids=["brackets", "digits", "too long"],
)
def test_a_hostile_line_is_named_by_its_number_in_few_words(tmp_path, line, reason):
    path = tmp_path / "requests.jsonl"
    path.write_text(line, encoding="utf8")
    with pytest.raises(RequestError, match=f"requests.jsonl, line 1: {reason}") as caught:
        read_requests(path)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_a_file_of_very_many_lines_is_refused(tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_text('{"sparsity": 0.5}\n' + "\n" * 99_999, encoding="utf8")
    assert read_requests(path) == [Request.of(sparsity=0.5)]
    path.write_text('{"sparsity": 0.5}\n' + "\n" * 100_000, encoding="utf8")
    with pytest.raises(RequestError, match=r"must have at most 100000 lines$"):
        read_requests(path)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "requests.jsonl"
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(
        RequestError, match=r"cannot be read: must have at most 67,108,864 bytes, got 1,099,511,627,776$"
    ):
        read_requests(path)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(RequestError, match=r"cannot be read: must be a regular file, got a \w+$"):
            read_requests(path)


def test_a_request_that_limits_costs_says_which_and_what_and_others_say_nothing():
    assert Request.of(max_params=7).limits == {"max_params": ("params", 7)}
    assert Request.of(max_bytes="2kB", sparsity=0.5, bits=4).limits == {
        "max_bytes": ("bytes", 2000),
        "bits": ("bits", 4),
    }
    assert not any(request.limits for request in (Request.of(sparsity=0.5), Request.of(preference=(1, 1))))


@pytest.mark.parametrize("field", LIMITS)
def test_every_cost_that_a_request_limits_is_counted_by_profiles_and_asked_on_the_command_line(field):
    plain = {"unit_params": (4,), "unit_bytes": (8,), "total_params": 9, "total_bytes": 18, "dtype": "bfloat16"}
    tables = (CostTable(**plain), CostTable(**plain, choices=((("dense", 16.0, 8), ("W4A16", 4.125, 3)),)))
    known = [TableCosts(("a",), table, physical=True) for table in tables]
    serving = ServingTable(kept=(), widest=1, logits=1)
    known += [ServedCosts(**vars(costs), serving=serving, load=Load(1)) for costs in known]
    known.append(TimedCosts(known[0], None, "depth", Load(1)))
    assert LIMITS[field].cost in {name for costs in known for name in costs.names}
    [option] = [option for option in strategy.params if option.name == field]
    assert option.help == LIMITS[field].text
