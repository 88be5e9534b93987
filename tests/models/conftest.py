"""Tests that may run a second time as on a machine with an accelerator, on models that the toolkit offloads."""

import pytest
from accelerator import MACHINES, copy_on_read
from compressed_tensors.offload import set_onload_device


@pytest.fixture(scope="module", params=MACHINES)
def machine(request):
    """For ``usefixtures`` of a module that makes its models by ``tiny_model``."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        if request.param == "accelerator":
            copy_on_read(monkeypatch)
            made = request.module.tiny_model
            monkeypatch.setattr(
                request.module, "tiny_model", lambda *given, **named: set_onload_device(made(*given, **named), "cpu")
            )
        yield request.param
