"""What a stranger, a disk or an editor may do to a file: to its bytes, its lines, and what its JSON or YAML says."""

import copy
import random

NASTY = [
    None, True, False, 0, -1, 1, 2, 2**31, -(2**63), 2**64, 10**400, 0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, "", " ",
    "a", "0", "-1", "1e999", "nan", "../a", "/etc/passwd", "/dev/zero", "a/b", "a\0b", "\x1b[2J", "\u202ea", "\ud800",
    "é" * 300, "1" * 10_000, "x" * 100_000, [], {}, [[]], {"": 0}, [None] * 1000, {"a": {"b": {"c": []}}},
    "re:(a+)+$", "calc(1)",
]  # fmt: skip


def nested(draw: random.Random) -> object:
    """A list in a list in a list; deeper ones than Python can copy are in the tests of what reads JSON."""
    value: object = []
    for _ in range(draw.choice([5, 40, 150])):
        value = [value]
    return value


def mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    """Flip bits, cut, repeat, put in, or replace what is there."""
    data = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 8])):
        place = draw.randrange(len(data) + 1)
        match draw.randrange(7):
            case 0 if data:
                data[place % len(data)] ^= 1 << draw.randrange(8)
            case 1:
                del data[place:]
            case 2:
                del data[place : place + draw.choice([1, 8, 100])]
            case 3:
                data[place:place] = draw.randbytes(draw.choice([1, 8, 100]))
            case 4:
                data[place : place + 8] = draw.choice([b"\xff" * 8, b"\0" * 8, (2**40).to_bytes(8, "little")])
            case 5:
                data[place:place] = data[: draw.randrange(200)]
            case _:
                data += draw.randbytes(draw.choice([1, 64]))
    return bytes(data)


def mutate_text(text: str, draw: random.Random) -> str:
    """The same for lines and words; always text."""
    lines = text.split("\n")
    for _ in range(draw.choice([1, 1, 2, 4])):
        place = draw.randrange(len(lines))
        match draw.randrange(6):
            case 0:
                del lines[place:]
            case 1:
                lines.insert(place, lines[draw.randrange(len(lines))])
            case 2:
                words = lines[place].split(" ")
                words[draw.randrange(len(words))] = str(draw.choice(NASTY)).replace("\n", " ")
                lines[place] = " ".join(words)
            case 3:
                marks = ["\t", "- ", "  ", "&a ", "*a", "{", "[", "!!python/none ", "? "]
                lines[place] = draw.choice(marks) + lines[place]
            case 4:
                at = draw.randrange(len(lines[place]) + 1)
                lines[place] = lines[place][:at] + draw.choice(":#{}[]&*!|>'\"%@`\x00\x85\ufeff") + lines[place][at:]
            case _:
                lines[place] = lines[place] * draw.choice([2, 50])
        lines = lines or [""]
    return "\n".join(lines).encode("utf8", "replace").decode("utf8")


def mutate_json(content: object, draw: random.Random) -> object:
    """Replace, remove, repeat or rename something anywhere in JSON data; a copy."""
    content = copy.deepcopy(content)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        places = list(_places(content))
        if not places:
            return draw.choice(NASTY)
        holder, key = draw.choice(places)
        match draw.randrange(6):
            case 0 | 1:
                holder[key] = copy.deepcopy(draw.choice(NASTY))
            case 2:
                other, name = draw.choice(places)
                holder[key] = copy.deepcopy(other[name])
            case 3:
                del holder[key]
            case 4 if isinstance(holder, dict):
                holder[str(draw.choice(NASTY))] = holder.pop(key)
            case 4:
                holder.insert(key, copy.deepcopy(holder[key]))
            case _:
                value = holder[key]
                scaled = isinstance(value, int | float) and abs(value) < 1e300 and not isinstance(value, bool)
                holder[key] = value * draw.choice([-1, 0, 10, 1e-9, 1e9]) if scaled else nested(draw)
    return content


def _places(content: object):
    """Every (list or object, index or key) there is."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(entries):
        yield content, key
        yield from _places(value)
