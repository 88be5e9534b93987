"""The gate for what is not finite."""

import pytest
import torch
from tiny import tiny_model
from torch import nn

from unicuco_plugin.errors import EvaluationError, UnsupportedModelError
from unicuco_plugin.models.tensors.finite import FiniteStates, check_finite, check_weights

NAN, INF = float("nan"), float("inf")


def model_with(value, dtype=torch.float32):
    model = tiny_model("llama", blocks=3).to(dtype)
    model.model.layers[2].mlp.up_proj.weight.data[3, 4] = value
    return model


@pytest.mark.parametrize("family", ["llama", "opt", "qwen3_moe"])
def test_finite_weights_pass(family):
    check_weights(tiny_model(family, blocks=2), "folder")


@pytest.mark.parametrize(
    ("value", "dtype", "advice"),
    [
        (NAN, torch.float32, ": they are so in its files, and --dtype mends nothing; take a sound copy of the model"),
        (NAN, torch.float16, ": they are so in its files, and --dtype mends nothing; take a sound copy of the model"),
        (INF, torch.bfloat16, ": they are so in its files, and --dtype mends nothing; take a sound copy of the model"),
        (-INF, torch.float16, "; take --dtype bfloat16 or float32"),
    ],
)
def test_a_weight_that_is_not_finite_is_named_with_what_to_do(value, dtype, advice):
    with pytest.raises(UnsupportedModelError) as caught:
        check_weights(model_with(value, dtype), "folder")
    kind = str(dtype).removeprefix("torch.")
    tensor = "model.layers.2.mlp.up_proj.weight"
    assert str(caught.value) == f"folder: 1 of 1,536 numbers of {tensor} are not finite in {kind}{advice}"


def test_weights_that_were_made_here_are_not_blamed_on_files():
    with pytest.raises(UnsupportedModelError, match=r"^it: 1 of .* are not finite in bfloat16; take --dtype float32$"):
        check_weights(model_with(NAN, torch.bfloat16), "it", made=True)


def test_tensors_without_numbers_are_not_looked_at():
    model = nn.ModuleList([nn.Linear(3, 3, device="meta"), nn.Linear(3, 3, bias=False)])
    model[1].weight = nn.Parameter(torch.ones(2, 0))
    model.register_parameter("codes", nn.Parameter(torch.ones(2, dtype=torch.int32), requires_grad=False))
    check_weights(model, "folder")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"a": 1.0, "model.layers.1": NAN},
            "score of 'model.layers.1' must be finite, got nan in float16; take ",
        ),
        ([0.0, INF], "score must be finite, got inf in float16; take --dtype bfloat16 or float32"),
        (torch.tensor([[0.0, NAN]]), "score is not finite in float16; take --dtype bfloat16 or float32"),
    ],
    ids=["named", "listed", "tensor"],
)
def test_a_score_that_is_not_finite_is_named_with_a_dtype(values, message):
    with pytest.raises(EvaluationError) as caught:
        check_finite("score", values, torch.float16)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("values", [{}, {"a": -1.0}, [2, 3.0], torch.zeros(2, 2), torch.zeros(0)], ids=str)
def test_finite_scores_pass(values):
    check_finite("score", values, torch.float32)


@pytest.mark.parametrize("place", range(3))
def test_the_first_block_that_gives_something_else_is_named(place):
    states = FiniteStates(("a", "b", "c"))
    outputs = [torch.ones(2, 3) for _ in range(3)]
    for after in range(place, 3):
        outputs[after][1, 2] = NAN
    with pytest.raises(EvaluationError, match=f"^block {'abc'[place]} gives values that are not finite in float32; no"):
        for index, output in enumerate(outputs):
            states.add(index, output)
    states.check()  # what was told is not told again
