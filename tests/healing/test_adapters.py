"""Which linears get adapters."""

import pytest
from tiny import tiny_model

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.healing.adapters import add_adapters, find_adaptable


def test_a_family_that_peft_refuses_is_refused_in_one_line():
    model = tiny_model("falcon_h1")
    with pytest.raises(UnsupportedModelError, match=r"^peft puts no adapters on this model: "):
        add_adapters(model, find_adaptable(model, "m"), rank=2, seed=0)
