"""Limits on parameters and bytes where shares come in steps, on the packaged structured profile."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unicuco_plugin.answering import load_profile
from unicuco_plugin.errors import RequestError
from unicuco_plugin.spaces.structured import StructuredSpace

PROFILE = load_profile("smollm2-135m-instruct-structured")
# 32 neurons of an MLP: three rows or columns of 576 each; two bytes a parameter.
STEP = 32 * 3 * 576


def test_the_finest_step_is_thirty_two_neurons():
    assert isinstance(PROFILE.search_space, StructuredSpace)
    assert (1 - PROFILE.search_space.most) * PROFILE.search_space.params.sum().item() == pytest.approx(STEP)


@settings(max_examples=8, deadline=None)
@given(st.floats(0.001, 0.99))
def test_a_share_is_reached_and_exceeded_by_less_than_a_step(share):
    over = PROFILE.answer(sparsity=share).sparsity - share
    assert -1e-12 <= over * PROFILE.search_space.params.sum().item() < STEP


@pytest.mark.parametrize("share", [0.8867240653004353, 0.3428977101469562])
def test_moves_after_the_descent_do_not_add_up_to_more_than_a_step(share):
    test_a_share_is_reached_and_exceeded_by_less_than_a_step.hypothesis.inner_test(share)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.integers(30_000_000, 134_000_000))
def test_parameters_are_never_exceeded_and_missed_by_two_steps_at_most(limit):
    assert 0 <= limit - PROFILE.answer(max_params=limit).params <= 2 * STEP


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.integers(60_000_000, 265_000_000))
def test_bytes_are_never_exceeded_and_missed_by_two_steps_at_most(limit):
    assert 0 <= limit - PROFILE.answer(max_bytes=limit).bytes <= 2 * 2 * STEP


@pytest.mark.parametrize("limit", [193_831_903, 262_844_574])
def test_an_excess_of_a_few_bytes_is_corrected_too(limit):
    # A few hundred bytes of a header more than asked: far less than a step, which corrections have to grow to.
    assert 0 <= limit - PROFILE.answer(max_bytes=limit).bytes <= 2 * 2 * STEP


def test_the_least_that_can_be_asked_has_one_step_left():
    with pytest.raises(
        RequestError, match=r"max_params must be at least \d+ for this profile, with 99\.95% of its units"
    ):
        PROFILE.answer(max_params=100)
    least = PROFILE.answer(sparsity=PROFILE.search_space.most).params
    assert PROFILE.answer(max_params=least).params == least
