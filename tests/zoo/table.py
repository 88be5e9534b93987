"""The zoo's expectation, ``outcomes.json``, and the table in ``docs/families.md`` that is made of it."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from zoo.families import ANIMALS

__all__ = ["DOCUMENT", "OUTCOMES", "read_outcomes", "render_table", "replace_table", "write_outcomes"]

OUTCOMES = Path(__file__).with_name("outcomes.json")
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "families.md"
_SPACES = ("depth", "sublayer", "sparsity", "structured")
# By hand: a strategy that is not trained can be applied.
_WORDS = ("right", "by hand", "refused", "wrong")
_BEGIN, _END = "<!-- written by python -m zoo -->\n", "<!-- until here -->\n"
_CLASS = re.compile(r"^[A-Za-z0-9_]+(?:ForCausalLM|LMHeadModel): ")
_MODULE = re.compile(r"(?<![\w.])[a-z_]\w*(?:\.\w+)*\.\d+(?:\.\w+)*")
_KIND = re.compile(r"\b[A-Z]\w*(?:Attention|MLP|FeedForward|Block|Mixer|DeltaNet|MoE|MoELayer|Conv)\w*\b")


def write_outcomes(found: Mapping[str, Mapping[str, str]]) -> None:
    """Write what was measured as what is expected from now on."""
    OUTCOMES.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf8")


def read_outcomes() -> dict[str, dict[str, str]]:
    """What is expected of every configuration in every space."""
    return json.loads(OUTCOMES.read_text(encoding="utf8"))


def replace_table(document: str, found: Mapping[str, Mapping[str, str]]) -> str:
    """The document with the table of these outcomes in it."""
    before, _, rest = document.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}{render_table(found)}{_END}{after}"


def render_table(found: Mapping[str, Mapping[str, str]]) -> str:
    """Counts, a row for every configuration, and every reason once."""
    reasons: dict[str, int] = {}
    rows = []
    for name, outcomes in sorted(found.items()):
        cells = [_cell(outcomes[space], reasons) for space in _SPACES]
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    families = len({ANIMALS[name].family for name in found})
    lines = [
        "",
        f"{len(found)} configurations of {families} families.",
        "",
        f"| | {' | '.join(_SPACES)} |",
        f"|---|{'---|' * len(_SPACES)}",
        *_counts(found),
        "",
        f"| configuration | {' | '.join(_SPACES)} |",
        f"|---|{'---|' * len(_SPACES)}",
        *rows,
        "",
        "The reasons, as `train` and `prune` say them (…: a class or module of the model):",
        "",
        *(f"{number}. {reason}" for reason, number in reasons.items()),
        "",
    ]
    return "\n".join(lines)


def _counts(found: Mapping[str, Mapping[str, str]]) -> list[str]:
    counted = {space: Counter(_word(outcomes[space]) for outcomes in found.values()) for space in _SPACES}
    words = sorted({word for counts in counted.values() for word in counts}, key=_WORDS.index)
    return [f"| {word} | {' | '.join(str(counted[space][word]) for space in _SPACES)} |" for word in words]


def _word(outcome: str) -> str:
    word = outcome.partition(":")[0].partition(" (")[0]
    return "by hand" if word == "refused in training" else word


def _cell(outcome: str, reasons: dict[str, int]) -> str:
    word, _, reason = outcome.partition(": ")
    if not reason:
        return word
    reason = _CLASS.sub("…: ", reason)
    reason = _KIND.sub("…", _MODULE.sub("…", reason)).replace("|", "\\|")
    reason = re.sub(r"(?<![\w.])\d+(\.\d+)?(?![\w.])", "n", reason)
    number = reasons.setdefault(reason, len(reasons) + 1)
    return f"{_word(outcome)} ({number})"
