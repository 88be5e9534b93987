"""Names are only text wherever they are shown; a renderer is the judge of Markdown."""

import html
import json
import re

import pytest
from hostile_names import NAMES
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.escaping import (
    code_block,
    code_span,
    escape_controls,
    escape_line,
    escape_markdown,
    escape_picture,
)

# Whatever may matter somewhere, more often than among all characters.
special = st.sampled_from("`|\\<>*_[]()!&;#$~@:/.-\"' \n\tawb1\x1b\u202e")
names = st.text(st.one_of(special, st.characters(codec="utf8")))
# Blanks of all kinds are set by the renderer as it likes.
dense = names.map(lambda name: re.sub(r"\s", "", name)).filter(bool)


@pytest.fixture(scope="module")
def markdown():
    return pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[2J", "\\u001b[2J"),
        ("\r\x00\x7f\x9b", "\\u000d\\u0000\\u007f\\u009b"),
        ("\u202e\u2066\u200f\u061c", "\\u202e\\u2066\\u200f\\u061c"),
        ("\u2028\u2029\x85", "\\u2028\\u2029\\u0085"),
        ("\ud800", "\\ud800"),
        ("é ‖ 模 🙂", "é ‖ 模 🙂"),
    ],
)
def test_control_characters_are_shown_as_escapes_and_the_rest_as_it_is(text, shown):
    assert escape_controls(text) == shown


@given(st.text(st.characters(), max_size=30))
def test_json_stays_the_same_json_on_one_line(text):
    line = escape_line(json.dumps({text: text}, ensure_ascii=False))
    assert json.loads(line) == {text: text}
    assert len(line.splitlines()) == 1
    assert line.encode()


def test_a_name_is_part_of_one_line():
    assert escape_line("a\tb\nc") == "a\\u0009b\\u000ac"


def texts(tokens):
    """Kinds of inline tokens, and their text together; entities are text."""
    children = [child for token in tokens for child in token.children or []]
    kinds = {"text" if child.type == "text_special" else child.type for child in children}
    return kinds, "".join(child.content for child in children)


@pytest.mark.slow
@given(name=dense)
def test_a_name_in_markdown_is_text_and_nothing_else(markdown, name):
    assert texts(markdown.parseInline(f"x{escape_markdown(name)}x")) == ({"text"}, f"x{escape_line(name)}x")


@given(name=names)
def test_a_name_in_a_code_span_is_all_of_it_and_nothing_else(markdown, name):
    kinds, content = texts(markdown.parseInline(f"x {code_span(name)} y"))
    if name.strip(" "):
        assert (kinds, content) == ({"text", "code_inline"}, f"x {escape_line(name)} y")


@given(name=dense)
def test_a_name_in_a_table_stays_in_its_cell(markdown, name):
    cells = f"| {code_span(name, table=True)} | {escape_markdown(name)} |"
    page = markdown.render(f"| a | b |\n|---|---|\n{cells}\n")
    assert page.count("<td>") == 2
    inside = [re.sub(r"^<code>|</code>$", "", cell) for cell in re.findall("<td>(.*?)</td>", page)]
    assert [html.unescape(cell) for cell in inside] == [escape_line(name)] * 2
    assert not any("<" in cell for cell in inside)


@given(text=names)
def test_a_block_of_code_ends_where_the_text_does(markdown, text):
    tokens = markdown.parse(f"{code_block(text, 'yaml')}\n\nafter\n")
    assert [token.type for token in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]
    assert tokens[0].info == "yaml"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("model.layers.0", "`model.layers.0`"),
        ("a`b", "``a`b``"),
        ("`a", "`` `a ``"),
        ("a|b", "`a|b`"),
        (" ", "<code> </code>"),
        ("", "<code></code>"),
    ],
)
def test_a_usual_name_is_a_usual_code_span(name, shown):
    assert code_span(name) == shown


@pytest.mark.parametrize("name", ["org/model_name-1.5", "evopress (5 of 50 generations)", "official, λ = 0.5"])
def test_usual_names_are_written_as_they_are(name):
    assert escape_markdown(name) == name
    assert escape_picture(name) == name


@pytest.mark.parametrize(
    "name", ["www.example.org", "https://example.org", "a@example.org", "@someone", "#12", "~~a~~"]
)
def test_what_the_hub_makes_links_and_strokes_of_is_broken_up(name):
    shown = escape_markdown(name)
    assert shown != name
    assert html.unescape(shown) == name


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_in_a_picture_is_drawn_as_it_is_written(name):
    from matplotlib.cbook import is_math_text

    shown = escape_picture(name)
    assert not is_math_text(shown)
    assert shown.replace(r"\$", "$") == escape_line(name)


def test_a_name_in_a_picture_leaves_room_for_the_picture():
    assert len(escape_picture("x" * 1000)) == 80
