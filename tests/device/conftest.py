"""The main job on a device that refuses mixed devices, beside the same on the CPU: every bit is the same."""

from pathlib import Path

import pytest
import torch
from other_device import other_device
from torch.nn.attention import SDPBackend, sdpa_kernel


@pytest.fixture(autouse=True)
def traffic():
    """What the emulated device sees during one test; attention is of one kernel on both."""
    with other_device() as seen, sdpa_kernel(SDPBackend.MATH):
        yield seen


@pytest.fixture(autouse=True)
def no_installed_plugins(monkeypatch):
    monkeypatch.setenv("UNICUCO_DISABLE_PLUGINS", "1")


@pytest.fixture
def windows():
    return torch.randint(4, 128, (4, 16), generator=torch.Generator().manual_seed(0))


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.accelerator)
            item.add_marker(pytest.mark.slow)
