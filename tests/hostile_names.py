"""Names that strangers may choose: they drive terminals, or end what they stand in."""

__all__ = ["NAMES"]

NAMES = {
    "clears": "a\x1b[2Jb",
    "reorders": "a\u202eb",
    "link": "](javascript:x)",
    "script": "</code><script>alert(1)</script>",
    "fence": "```\n# x",
    "ticks": "a```b``c",
    "table": "a | b \\| c",
    "newline": "a\nerror: b",
    "mathematics": "a$b_{",
    "two marks": "$\\frac$",
    "front matter": "a\n---\nb: c",
    "surrogate": "a\ud800b",
    "next line": "a\x85b\u2028c\x9b2J",
}
