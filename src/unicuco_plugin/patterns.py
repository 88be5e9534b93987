"""Regular expressions of strangers, tried out where they can do no harm: in a process with a clock of its own.

Python's ``re`` can neither be interrupted nor given a limit, and some expressions of ten characters take longer than
the universe on a name of forty. Compiling happens over there as well.
"""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["MOST_CHARACTERS", "BadPattern", "find_bad_pattern"]

MOST_CHARACTERS = 1_000
# More than any recipe needs; each may take its share of the time on the names of a large model.
_MOST_PATTERNS = 500
# Of the processor, for all patterns together; those that recipes use take microseconds.
_SECONDS = 0.5
# More for every pattern on every name: ten times what an expression that looks ahead takes on a name of 60 letters.
_SECONDS_A_NAME = 2e-5
# If ever the clock of the processor fails us.
_LAST_RESORT = 120.0
# The runs are as long as a long name: an expression that is cubic in it passes, one that doubles with each letter does
# not.
_RUN = 64

_TYPICAL = (
    "model.layers.10.self_attn.q_proj",
    "model.layers.3.mlp.experts.127.down_proj.weight",
    "model.language_model.layers.31.block_sparse_moe.experts.7.w1",
    "transformer.h.11.attn.c_attn",
    "gpt_neox.layers.5.attention.query_key_value",
    "model.embed_tokens.weight",
    "lm_head",
)
_AWKWARD = tuple(
    (piece * _RUN)[:_RUN] + end
    for piece in ("a", "0", ".", "_", "a.", "a0", "0.", "a_", "layers.")
    for end in ("", "!")
)

# No group is repeated, and nothing stands in a group but letters and bars: with two repeats at most such an expression
# is quadratic in the name, and it always compiles.
_HARMLESS = re.compile(r"(?:(?:\\[.dw]|[\w.-])[*+?]?|[\^$]|\((?:\?:)?[\w.|-]*\)(?![*+?{]))*", re.ASCII)
_REPEATS = re.compile(r"(?<!\()[*+?]")

# Says which pattern it is about to try, so that its end tells which one was too much.
_CHILD = """
import json, re, signal, sys
seconds, names, patterns = json.load(sys.stdin)
signal.setitimer(signal.ITIMER_PROF, seconds)
for place, (pattern, use) in enumerate(patterns):
    print(place, flush=True)
    try:
        match = getattr(re.compile(pattern), use)
        for name in names:
            match(name)
    except Exception as error:
        print(json.dumps(str(error) or type(error).__name__), flush=True)
        break
else:
    print("done", flush=True)
"""


@dataclass(frozen=True)
class BadPattern:
    """An expression that cannot be used.

    Attributes:
        pattern: The expression.
        reason: What is wrong with it, to be read after it: ``is no regular expression: …``.
    """

    pattern: str
    reason: str


def find_bad_pattern(
    patterns: Iterable[str], names: Sequence[str] = (), *, searched: Iterable[str] = ()
) -> BadPattern | None:
    """Try expressions out on names, within about a second.

    Args:
        patterns: Expressions that will be matched with names from their start.
        names: What they will be matched with; typical and awkward names, always among them, if they are not known yet.
        searched: Expressions that will be looked for anywhere in a name.

    Returns:
        The first that is too long, does not compile or backtracks without end; None if all will do.
    """
    uses = {(pattern, "match"): None for pattern in patterns} | {(pattern, "search"): None for pattern in searched}
    for pattern, _ in uses:
        if len(pattern) > MOST_CHARACTERS:
            return BadPattern(pattern, f"must have at most {MOST_CHARACTERS:,} characters, got {len(pattern):,}")
    doubtful = [(pattern, use) for pattern, use in uses if not _is_harmless(pattern)]
    if len(doubtful) > _MOST_PATTERNS:
        return BadPattern(doubtful[-1][0], f"is one of {len(doubtful):,} expressions, got more than {_MOST_PATTERNS}")
    return _try_out(doubtful, [*_TYPICAL, *_AWKWARD, *names]) if doubtful else None


def _is_harmless(pattern: str) -> bool:
    """Whether it needs no trying out, which most do not."""
    if not _HARMLESS.fullmatch(pattern):
        return False
    # An escaped character is a letter here; what remains of (?: is no repeat.
    return len(_REPEATS.findall(pattern)) <= 2 and pattern.count("(") <= 2 and pattern.count("|") <= 8


def _try_out(patterns: list[tuple[str, str]], names: list[str]) -> BadPattern | None:
    seconds = _SECONDS + _SECONDS_A_NAME * len(patterns) * len(names)
    try:
        run = subprocess.run(  # noqa: S603 - our own interpreter on our own text; the patterns come by standard input
            [sys.executable, "-I", "-S", "-c", _CHILD],
            input=json.dumps([seconds, names, patterns]),
            capture_output=True,
            text=True,
            timeout=_LAST_RESORT + seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return BadPattern(patterns[0][0], "takes too long on module names, or one after it does")
    except OSError as error:
        return BadPattern(patterns[0][0], f"cannot be tried out: {error}")
    lines = run.stdout.splitlines()
    if run.returncode == 0 and lines[-1:] == ["done"]:
        return None
    places = [int(line) for line in lines if line.isdigit()]
    pattern = patterns[places[-1] if places else 0][0]
    if run.returncode == -signal.SIGPROF:
        return BadPattern(pattern, "backtracks without end on module names; write it without a repeat in a repeat")
    if lines and lines[-1].startswith('"'):
        return BadPattern(pattern, f"is no regular expression: {json.loads(lines[-1])}")
    return BadPattern(pattern, f"cannot be tried out: Python ended with {run.returncode}")
