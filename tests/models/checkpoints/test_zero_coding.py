"""Chunks of numbers without their zeros."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.errors import ArchiveError
from unicuco_plugin.models.checkpoints.zero_coding import decode, encode

WIDTHS = [1, 2, 4, 8]


@st.composite
def chunks(draw):
    """Numbers as bytes, many of them zero."""
    width = draw(st.sampled_from(WIDTHS))
    number = st.one_of(st.just(bytes(width)), st.binary(min_size=width, max_size=width))
    return b"".join(draw(st.lists(number, max_size=200))), width


@given(chunks())
def test_what_is_decoded_is_what_was_encoded(chunk):
    data, width = chunk
    coded = encode(data, width)
    assert decode(io.BytesIO(coded), len(data), width) == data
    assert len(coded) <= len(data) + 1


@given(st.binary(max_size=100))
def test_bytes_that_are_no_numbers_come_back(data):
    assert decode(io.BytesIO(encode(data, 0)), len(data), 0) == data


def test_minus_zero_survives_and_zero_costs_one_bit():
    numbers = np.zeros(8000, dtype=np.float32)
    numbers[17] = -0.0
    coded = encode(numbers.tobytes(), 4)
    assert len(coded) == 1 + 4 + 1000 + 4
    assert decode(io.BytesIO(coded), 32000, 4) == numbers.tobytes()


@pytest.mark.parametrize("width", WIDTHS)
def test_half_zeros_take_a_bit_and_half_the_bytes_of_each_number(width):
    numbers = np.arange(2**15) % 2
    coded = encode(numbers.astype(f"u{width}").tobytes(), width)
    assert len(coded) == 5 + 2**12 + 2**14 * width


@pytest.mark.parametrize(
    ("coded", "message"),
    [
        (b"\x02abcd", "expected a chunk of kind 0 or 1, got 2"),
        (b"\x01\x02\x00\x00\x00\x01\x07", "a bitmap has 1 survivors, expected 2"),
    ],
)
def test_what_is_no_chunk_is_refused(coded, message):
    with pytest.raises(ArchiveError, match=message):
        decode(io.BytesIO(coded), 4, 1)
