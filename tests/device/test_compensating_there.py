"""Corrections of one model: solved on the emulated device as on the CPU."""

import pytest
import torch
from other_device import DEVICE
from structured_parts import mixed_parts
from tiny import tiny_model

from unicuco_plugin.compensation.compensate import compensate
from unicuco_plugin.compensation.dense_states import DenseStates
from unicuco_plugin.compensation.methods import METHODS
from unicuco_plugin.compensation.parts import compensate_parts
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.halves import HalfRunner
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.objectives.head import DivergenceHead

WINDOWS = torch.randint(4, 128, (16, 32), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", ["ridge", "sequential", "scale"])
def test_of_blocks(method):
    same(*both(BlockRunner, compensate, (1, 3, 4), METHODS[method]))


@pytest.mark.parametrize("method", ["ridge", "sequential", "bias"])
def test_of_parts(method):
    same(*both(HalfRunner, compensate_parts, mixed_parts(biases=True), METHODS[method]))


def both(runner_of, solve, lost, method):
    """What comes of a method on the CPU, and there."""
    for place in ("cpu", str(DEVICE)):
        runner = runner_of(find_decoder(tiny_model("llama").to(place)), WINDOWS.shape[1])
        yield solve(DenseStates(runner, WINDOWS, batch=2), lost, method, DivergenceHead(runner).divergences)


def same(here, there):
    """Bit for bit."""
    assert (here.before, here.after, here.left_out, here.gains) == (
        there.before,
        there.after,
        there.left_out,
        there.gains,
    )
    assert here.corrected == there.corrected and here.corrected
    assert here.changes.keys() == there.changes.keys() and here.biases.keys() == there.biases.keys()
    for name, values in here.changes.items():
        assert all(torch.equal(value, there.changes[name][own]) for own, value in values.items())
    assert all(torch.equal(bias.cpu(), there.biases[name].cpu()) for name, bias in here.biases.items())
