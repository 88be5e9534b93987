r"""Untrusted text, shown so that it is only text: on a terminal, in Markdown and HTML, in a picture.

Names in profiles, strategies, level databases and checkpoints may hold anything. Control characters become the escapes
of JSON (``\u001b``), so that JSON stays the same JSON.
"""

import re

from unicuco_plugin.errors import clip

__all__ = ["code_block", "code_span", "escape_controls", "escape_line", "escape_markdown", "escape_picture"]

# C0 but for tab and newline, DEL and C1; what reorders a line: Arabic letter mark, LRM, RLM, embeddings, overrides,
# isolates; line and paragraph separators; surrogates that stand alone, which no terminal can be sent.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKS = re.compile("[\t\n]")
# What may begin something in CommonMark, its tables, autolinks and mathematics, or HTML. An underscore within a word
# does not; nor does a dot, but behind www it makes a link.
_MARKS = re.compile(r"[\\`*\[\]<>&|#~$@!^]|(?<![^\W_])_|_(?![^\W_])|(?<=www)\.|:(?=//)", re.ASCII | re.IGNORECASE)
_WORDS = 80  # characters of a name in a picture: longer ones leave no room for what is drawn


def escape_controls(text: str) -> str:
    r"""Write control characters as ``\uXXXX``; tabs and newlines stay."""
    return _CONTROLS.sub(_as_escape, text)


def escape_line(text: str) -> str:
    r"""Write control characters as ``\uXXXX``, tabs and newlines too: a name is a part of one line."""
    return _BREAKS.sub(_as_escape, escape_controls(text))


def escape_markdown(text: str) -> str:
    """Write a name as running text of Markdown, in a table or not; as HTML it is text as well."""
    return _MARKS.sub(lambda match: f"&#{ord(match[0])};", escape_line(text))


def code_span(text: str, *, table: bool = False) -> str:
    """Write a name as code within a line of Markdown.

    Args:
        text: The name.
        table: Whether the line is a row of a table, which is cut at every ``|`` even within code.
    """
    text = escape_line(text)
    if not text.strip() or (table and "|" in text):  # HTML, because renderers differ in what a backslash does there
        return f"<code>{escape_markdown(text)}</code>"
    fence = "`" * (_longest_run(text) + 1)
    # One blank at either end belongs to the fence if there is one at both.
    padding = " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def code_block(text: str, language: str) -> str:
    """Write text of several lines as a block of code in Markdown."""
    text = escape_controls(text)
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def escape_picture(text: str) -> str:
    """Write a name into a picture: matplotlib would set what stands between two ``$`` as mathematics."""
    return clip(escape_line(text), _WORDS).replace("$", r"\$")


def _as_escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
