"""Candidates that memory has no room for together are measured in smaller batches, and one alone is refused."""

import pytest
import torch

from unicuco_plugin.errors import EvaluationError
from unicuco_plugin.objectives.objective import Evaluation
from unicuco_plugin.objectives.room import Room


class Device:
    """Measures a number as itself, no more than so many together."""

    def __init__(self, fits, error=torch.OutOfMemoryError):
        self.fits, self.error, self.sizes = fits, error, []

    def __call__(self, part, report):
        self.sizes.append(len(part))
        if len(part) > self.fits:
            raise self.error
        for done in range(len(part)):
            report(done + 1)
        return [Evaluation(float(value), (float(value),), 1, 0.0) for value in part]


@pytest.mark.parametrize("fits", range(1, 12))
@pytest.mark.parametrize("count", [0, 1, 7, 10])
def test_every_candidate_is_measured_once_and_in_order(fits, count):
    device, told, said = Device(fits), [], []
    found = Room(said.append).measure(device, range(count), told.append)
    assert [one.value for one in found] == list(range(count))
    assert told == list(range(1, count + 1))
    assert len(said) == sum(size > fits for size in device.sizes)


def test_what_did_not_fit_once_is_not_tried_again_and_that_is_said_once():
    device, said = Device(4), []
    room = Room(said.append)
    for _ in range(2):
        room.measure(device, range(10))
    assert device.sizes == [10, 5, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    assert said == [
        "out of memory: strategies are measured 5 at a time from here on, not 10",
        "out of memory: strategies are measured 2 at a time from here on, not 5",
    ]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError("no room"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_one_alone_that_does_not_fit_says_what_to_lower(error):
    device = Device(0, error)
    with pytest.raises(EvaluationError, match=r"^one strategy alone .*: lower batch_windows, .*seq_length") as caught:
        Room().measure(device, range(4))
    assert device.sizes == [4, 2, 1, 1]
    assert len(str(caught.value)) <= 300
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), KeyError("x")])
def test_other_errors_are_their_own(error):
    device = Device(0, error)
    with pytest.raises(type(error)) as caught:
        Room().measure(device, range(4))
    assert caught.value is error
    assert device.sizes == [4]


def test_one_alone_is_tried_again_once_what_was_kept_has_been_let_go():
    class Full(Device):
        def __call__(self, part, report):
            self.fits = 0 if len(self.sizes) < 1 else 1
            return super().__call__(part, report)

    device, said = Full(0), []
    assert [one.value for one in Room(said.append).measure(device, [7])] == [7.0]
    assert (device.sizes, said) == ([1, 1], [])


def test_an_objective_that_gives_nothing_does_not_go_on_for_ever():
    with pytest.raises(TypeError):
        Room().measure(lambda part, report: None, range(3))
