"""What stays of a model is held against that model."""

import pytest
import torch
from tiny import tiny_model

from unicuco_plugin.errors import StrategyError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.parts.kept_parts import KeptParts

ATTENTION, MLP = "model.layers.1.self_attn", "model.layers.2.mlp"


@pytest.fixture(scope="module")
def decoder():
    return find_decoder(tiny_model("llama"))


def test_parts_and_a_bias_of_the_right_shapes_pass(decoder):
    parts = KeptParts({ATTENTION: (1,), MLP: ()}, {ATTENTION: torch.ones(32)})
    parts.check(decoder)
    assert parts.removed == (MLP,)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (
            {"model.layers.1": (0,)},
            r"MLPs of this model, .*, got 'model.layers.1': they are for another model",
        ),
        ({ATTENTION: (0, 2)}, r"must be in \[0, 2\), got 0 to 2"),
        ({ATTENTION: (-1, 0)}, r"must be in \[0, 2\), got -1 to 0"),
        ({MLP: (3, 1)}, r"must be ascending without repetition, got \(3, 1\)"),
        ({MLP: (3, 3)}, r"must be ascending without repetition, got \(3, 3\)"),
        ({MLP: [1, 3]}, r"must be a tuple of integers, got \[1, 3\]"),
        ({MLP: (True,)}, r"must be a tuple of integers, got \(True,\)"),
        ({f"model.layers.{i}.{h}": () for i in range(6) for h in ("self_attn", "mlp")}, "got all 12 modules removed"),
    ],
)
def test_kept_indices_are_refused(kept, message, decoder):
    with pytest.raises(StrategyError, match=message):
        KeptParts(kept).check(decoder)


@pytest.mark.parametrize(
    ("biases", "message"),
    [
        ({MLP: torch.ones(31)}, r"must have shape \(32,\), got \(31,\)"),
        ({MLP: torch.full((32,), torch.nan)}, "must be finite floating-point numbers"),
        ({MLP: torch.ones(32, dtype=torch.long)}, "must be finite floating-point numbers"),
        ({ATTENTION: torch.ones(32)}, "must belong to a module that loses parts"),
        ({"lm_head": torch.ones(32)}, "got 'lm_head'"),
    ],
)
def test_biases_are_refused(biases, message, decoder):
    with pytest.raises(StrategyError, match=message):
        KeptParts({MLP: (0, 5), ATTENTION: (0, 1)}, biases).check(decoder)
