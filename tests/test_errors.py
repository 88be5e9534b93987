import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unicuco_plugin import errors
from unicuco_plugin.errors import explain, round_down, round_up


@given(st.floats(1e-12, 1e12))
def test_rounded_bounds_are_themselves_within_the_bound(value):
    assert float(round_down(value)) <= value <= float(round_up(value))
    assert float(round_down(value)) == pytest.approx(value, rel=1e-5)
    assert float(round_up(value)) == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(
    ("value", "down", "up"),
    [(29 / 30, "0.966666", "0.9667"), (0.5, "0.5", "0.5"), (0.00012344, "0.00012344", "0.0001235")],
)
def test_rounded_bounds_are_written_in_few_digits(value, down, up):
    assert (round_down(value), round_up(value)) == (down, up)


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name.endswith("Error")])
def test_every_error_is_in_our_tree(name):
    assert issubclass(getattr(errors, name), errors.UnicucoError)


def test_an_explanation_names_field_rule_and_value_in_one_line():
    class Example(BaseModel):
        model_config = ConfigDict(extra="forbid")
        count: int = Field(ge=1)
        name: str

    with pytest.raises(ValidationError) as caught:
        Example.model_validate({"count": 0, "other": 1})
    assert explain(caught.value) == (
        "count: Input should be greater than or equal to 1, got 0; name: Field required; unknown field 'other'"
    )
