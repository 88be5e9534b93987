"""A plan held against weights."""

import pytest
import torch
from torch import nn

from unicuco_plugin.errors import ExportError
from unicuco_plugin.modifiers.carriers.plan_check import PlanCheck, PlannedLinear, count_zeros


def linear(zeros, size=100):
    layer = nn.Linear(size, 1, bias=False)
    layer.weight.data = torch.cat([torch.zeros(zeros), torch.ones(size - zeros)])[None]
    return layer


def check_of(**linears):
    return PlanCheck.of(linears, "SparseGPTModifier")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn])
def test_zeros_are_counted_in_every_dtype_and_minus_zero_is_one(dtype):
    layer = linear(3)
    layer.weight.data[0, 0] = -0.0
    layer.weight.data[0, 5:9] = torch.tensor([2.0**-6, -1.0, 0.5, -(2.0**-6)])
    layer.weight.data = layer.weight.data.to(dtype)
    assert count_zeros(layer) == 3
    layer.weight.data = layer.weight.data.view(10, 10).t()
    assert count_zeros(layer) == 3


@pytest.mark.parametrize("zeros", [48, 50, 52])
def test_what_lies_within_the_slack_passes(zeros):
    check = check_of(a=PlannedLinear(linear(zeros), 50, 2, 0))
    check.verify()
    assert check.counts == {"a": zeros}


@pytest.mark.parametrize("zeros", [47, 53])
def test_what_does_not_is_named_with_its_numbers(zeros):
    message = f"SparseGPTModifier did not carry out the plan: a has {zeros} zeros of 100 weights, expected 50 ± 2"
    with pytest.raises(ExportError, match=message):
        check_of(a=PlannedLinear(linear(zeros), 50, 2, 0)).verify()


def test_zeros_that_the_dense_model_had_may_come_on_top():
    check_of(a=PlannedLinear(linear(57), 50, 2, before=5)).verify()


def test_the_worst_comes_first_and_the_rest_is_counted():
    linears = {f"l{i}": PlannedLinear(linear(10 * i), 90, 0, 0) for i in range(1, 9)}
    with pytest.raises(ExportError, match=r"plan: l1 has 10 zeros .*; l2 has .*; l3 has .*; and 5 more$"):
        check_of(**linears).verify()


def test_too_many_zeros_come_with_what_may_have_made_them():
    with pytest.raises(ExportError, match="inputs that are zero in all calibration text zero whole columns"):
        check_of(a=PlannedLinear(linear(90), 50, 2, 0)).verify()


def test_a_linear_is_counted_when_its_pass_ends_and_not_again():
    first, second = linear(50), linear(50)
    check = check_of(a=PlannedLinear(first, 50, 0, 0), b=PlannedLinear(second, 50, 0, 0))
    check.on_sequential_epoch_end(None, None, modules=[first])
    first.weight.data[:] = 1  # as a later modifier may
    check.on_calibration_end(None, None)
    assert check.counts == {"a": 50, "b": 50}


def test_all_are_counted_where_the_toolkit_does_not_say_which():
    check = check_of(a=PlannedLinear(linear(50), 50, 0, 0))
    check.on_sequential_epoch_end(None, None)
    assert check.counts == {"a": 50}


def unreached_check(few, reached=()):
    linears = {
        "big": PlannedLinear(linear(500, 1000), 500, 0, 0),
        "small": PlannedLinear(linear(0, few), few // 2, 0, 0),
    }
    check = check_of(**linears)
    for name in ("big", *reached):
        linears[name].module(torch.ones(1, linears[name].module.in_features))
    return check


def test_a_few_planned_weights_that_no_token_reached_stay_dense():
    check = unreached_check(50)
    check.verify()
    assert check.counts == {"big": 500, "small": 0}


def test_many_that_no_token_reached_are_refused_with_what_to_do():
    message = (
        r"^no calibration token reached small, 100 of 1,100 planned weights, so SparseGPTModifier left them dense; "
        r"give more windows \(--samples\), or ignore them in training$"
    )
    with pytest.raises(ExportError, match=message):
        unreached_check(100).verify()


def test_what_a_token_reached_and_the_pass_left_dense_is_no_exception():
    with pytest.raises(ExportError, match="did not carry out the plan: small has 0 zeros of 50 weights"):
        unreached_check(50, reached=("small",)).verify()


def test_a_check_that_is_forgotten_leaves_no_hook():
    layer = linear(50)
    check = check_of(a=PlannedLinear(layer, 50, 2, 0))
    assert layer._forward_hooks
    check.forget()
    check.forget()
    assert not layer._forward_hooks
