import pytest

from unicuco_plugin.errors import ExportError, RecipeError
from unicuco_plugin.modifiers.toolkit.failure import explain_failure


def listed(*columns):
    lines = [f"  - model.layers.{i}.proj (columns={c}, group_size=128)" for i, c in enumerate(columns)]
    return ValueError(
        "The following layers have weight column counts not divisible by group_size.\n\n" + "\n".join(lines)
    )


@pytest.mark.parametrize(
    ("columns", "advice"),
    [
        ((192, 320, 192), "give a scheme with group_size 64"),
        ((4096 + 32,), "give a scheme with group_size 32"),
        ((130, 131, 133), "give a scheme without groups"),
    ],
)
def test_a_group_size_that_does_not_fit_is_told_with_one_that_does(columns, advice):
    found = explain_failure(listed(*columns))
    assert isinstance(found, RecipeError)
    assert str(found).startswith(
        f"group_size 128 does not divide the columns of {len(columns)} linears (model.layers.0.proj {columns[0]}"
    )
    assert str(found).endswith(f"as compressed-tensors requires; {advice}, or put these linears under ignore")


def test_a_hundred_linears_make_one_line():
    text = str(explain_failure(listed(*[192] * 500)))
    assert "and 498 more" in text
    assert len(text) <= 300


def test_other_errors_keep_their_first_line():
    found = explain_failure(RuntimeError("\n  first\nsecond " + "x" * 5000))
    assert isinstance(found, ExportError)
    assert str(found) == "llm-compressor failed on this recipe: RuntimeError: first"
    assert len(str(explain_failure(RuntimeError("x" * 5000)))) <= 300
    assert str(explain_failure(KeyError())) == "llm-compressor failed on this recipe: KeyError: no reason given"


def test_a_model_that_the_toolkit_cannot_trace_is_told_with_the_way_around_it():
    text = str(explain_failure(RuntimeError("--- <Autowrapped SomeModel 140661994484368>:9 ---\nreturn position_ids")))
    assert text.startswith("llm-compressor cannot trace this family's forward pass")
    assert "--engine levels" in text
    assert len(text) <= 300
