"""Tables of times as if a device had been profiled, and a clock that only linears move."""

from contextlib import contextmanager

import torch
from torch import nn

from unicuco_plugin.costs.device_table import DeviceTable
from unicuco_plugin.costs.timings import Device, Observation, Point, Shape
from unicuco_plugin.strategy import ModelReference
from unicuco_plugin.timing import profile, running

__all__ = ["DEVICE", "made_table", "seen", "virtual_clock"]

DEVICE = Device(name="a card", kind="cpu", threads=2, dtype="float32", versions={"torch": "2"})
# Of one token at a context of 100, in ms, by parts left; a prompt takes ten times as long.
_ATTENTION, _MLP, _REST = {0: 0.1, 1: 0.6, 2: 0.8, 3: 1.0}, {0: 0.05, 32: 0.25, 768: 1.1, 1536: 2.05}, 8.0


def made_table(fingerprint, blocks=30, *, attention=_ATTENTION, mlp=_MLP, **fields):
    """A table for a model of SmolLM2's shape: contexts of 100 and 300, batches of 1 and 4, times rising with both."""
    shapes = Shape(kind="attention", widths=tuple(attention)), Shape(kind="mlp", widths=tuple(mlp))
    modules = {f"model.layers.{i}.{n}": k for i in range(blocks) for k, n in enumerate(("self_attn", "mlp"))}
    points = []
    for phase, longer in (("decode", 1.0), ("prefill", 10.0)):
        for batch in (1, 4):
            for context in (100, 300):
                scale = longer * batch
                times = (
                    tuple((ms * scale * context / 100,) * 3 for ms in attention.values()),
                    tuple((ms * scale,) * 3 for ms in mlp.values()),
                )
                points.append(Point(phase=phase, batch=batch, context=context, rest=(_REST * scale,) * 3, times=times))
    given = {
        "device": DEVICE, "model": ModelReference(name="SmolLM2", fingerprint=fingerprint), "modules": modules,
        "shapes": shapes, "points": tuple(points), "done": 3, "total": 3,
    }  # fmt: skip
    return DeviceTable(**(given | fields))


def seen(predicted, measured, *, space="depth", phase="decode", dense=(90.0, 90.0), **load):
    """A checkpoint that was timed at the first load of :func:`made_table`, and the dense model: predicted, measured."""
    times = {"predicted": predicted, "measured": measured, "dense_predicted": dense[0], "dense_measured": dense[1]}
    return Observation(space=space, phase=phase, **({"batch": 1, "context": 100} | load | times))


@contextmanager
def virtual_clock(monkeypatch):
    """Let time pass in linears alone: a microsecond for each weight and token."""
    now = [0.0]

    def pass_time(module, inputs, _):
        if isinstance(module, nn.Linear):
            now[0] += 1e-6 * module.weight.numel() * inputs[0].shape[:-1].numel()

    hook = torch.nn.modules.module.register_module_forward_hook(pass_time)
    monkeypatch.setattr(running, "clock", lambda: now[0])
    monkeypatch.setattr(profile, "STEPS", 2)
    try:
        yield
    finally:
        hook.remove()
