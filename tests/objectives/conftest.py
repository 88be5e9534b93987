"""What tests of evaluators share."""

import gc

import pytest


@pytest.fixture
def no_collector():
    """Nothing but reference counts frees memory."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
