"""A machine with an accelerator, seen from one without: what is offloaded is read as a fresh copy each time."""

import pytest
import torch
from compressed_tensors.offload.cache.cpu import CPUCache

from unicuco_plugin.models.tensors.storage import kept_tensors

__all__ = ["MACHINES", "copy_on_read", "kept_parameters", "run_on", "with_machines"]

# Of a fixture ``machine``: tests run twice, as here and as where an accelerator makes the toolkit read copies. The fast
# lane has the first alone.
MACHINES = ("host", pytest.param("accelerator", marks=[pytest.mark.accelerator, pytest.mark.slow]))


def copy_on_read(monkeypatch):
    """Let the toolkit's cache give a copy of a kept tensor, as it does where the device is another one.

    Returns:
        A list that grows by the bytes of every copy.
    """
    read = []

    def onload(_, kept):
        if kept is None:
            return None
        with torch.no_grad():
            fresh = kept.detach().clone()
        read.append(fresh.nbytes)
        if fresh.is_floating_point():
            fresh.requires_grad_(kept.requires_grad)
        # A parameter stays a parameter, with whatever the toolkit has noted on it.
        fresh.__class__ = kept.__class__
        fresh.__dict__.update(kept.__dict__)
        return fresh

    monkeypatch.setattr(CPUCache, "onload", onload)
    return read


def with_machines(cases):
    """Parametrise ``machine`` and ``case``, where not every machine has all cases.

    Args:
        cases: Of each machine of ``MACHINES``, by its name; tuples of words. A test gets them with the machine behind.
    """
    marks = dict(zip(cases, ((), MACHINES[1].marks), strict=True))
    given = [
        # With the machine's name in it: pytest runs what shares a case together, and would change machines for each.
        pytest.param(machine, (*case, machine), marks=marks[machine], id="-".join((machine, *case)))
        for machine, own in cases.items()
        for case in own
    ]
    return pytest.mark.parametrize(("machine", "case"), given, indirect=["machine"], scope="module")


def run_on(request):
    """The body of that fixture, of module scope."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        if request.param == "accelerator":
            copy_on_read(monkeypatch)
        yield request.param


def kept_parameters(model):
    """Name to parameter, each once, whether the toolkit still offloads the model (as after a failed run) or not."""
    with kept_tensors():
        return dict(model.named_parameters())
