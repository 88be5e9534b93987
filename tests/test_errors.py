import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unicuco_plugin import errors
from unicuco_plugin.errors import clip, explain, listed, quoted, round_down, round_up


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


def test_an_explanation_of_a_hostile_document_is_short():
    class Example(BaseModel):
        counts: dict[str, int]

    fields = {f"{letter}{'x' * 10**6}": "y" * 10**6 for letter in "abcde"}
    with pytest.raises(ValidationError) as caught:
        Example.model_validate({"counts": fields})
    said = explain(caught.value)
    assert len(said) == 300
    assert said.startswith("counts.a" + "x" * 51 + "…: Input should be a valid integer, unable to parse string")
    assert said.endswith("; and 2 more")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\nb", "'a\\nb'"),
        ("x" * 10**7, "'" + "x" * 58 + "…"),
        (list(range(100)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, …"),
        (10**5000, "a very large int"),
    ],
    ids=["text", "long text", "list", "integer"],
)
def test_a_value_from_outside_is_shown_in_sixty_characters(value, shown):
    assert quoted(value) == shown


@given(st.text(max_size=40), st.integers(4, 40), st.booleans())
def test_a_clipped_text_is_no_longer_than_asked_and_keeps_what_fits(text, most, middle):
    short = clip(text, most, middle=middle)
    assert len(short) <= most
    assert (short == text) == (len(text) <= most or text == short)
    assert text.startswith(short.partition("…")[0])


def test_a_clipped_message_keeps_its_end():
    assert clip("which file" + "x" * 100 + "what to do", 30, middle=True) == "which filexxxxxxxxx…what to do"


@pytest.mark.parametrize(
    ("items", "options", "told"),
    [
        ([], {}, ""),
        (["a", "b", "c"], {}, "a, b, c"),
        (["a", "b", "c", "d"], {}, "a, b, c, …"),
        (["a", "b", "c", "d", "e"], {"most": 2, "between": "; ", "rest": "; and {} more"}, "a; b; and 3 more"),
    ],
)
def test_a_list_names_the_first_few_and_tells_of_the_rest(items, options, told):
    assert listed(items, **options) == told
