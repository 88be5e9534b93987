"""YAML as a tree of nodes with their lines, refused before it costs much or means more than plain values."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from unicuco_plugin.files.received import read_text
from unicuco_plugin.files.refusal import refusal, show

__all__ = ["compose_yaml", "line_of", "plain_values", "read_yaml"]

# Naming every linear of 256 experts in a hundred blocks three times over takes ten million bytes and 300 000 nodes.
_MOST_BYTES = 16 << 20
_MOST_NODES = 1_000_000
# What aliases may add to that; recipes written by hand repeat a list or two.
_MOST_REPEATED = 200_000
# A recipe is five deep, a quantisation scheme in it nine.
_MOST_DEPTH = 40
_MOST_CHARACTERS = 10_000
# A number of many more digits is slow to read and cannot be written again.
_MOST_DIGITS = 400

_PREFIX = "tag:yaml.org,2002:"
_MERGE = f"{_PREFIX}merge"
_NUMBERS = {f"{_PREFIX}int", f"{_PREFIX}float"}
_PLAIN = {f"{_PREFIX}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}
# What an unquoted word may be taken for, and what to do then.
_QUOTE = {f"{_PREFIX}timestamp": "a date", f"{_PREFIX}value": "YAML's sign for a default", _MERGE: "a merge"}

# The C parser is twenty times as fast; not every build of PyYAML has it.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: str | Path, kind: str) -> str:
    """Read a file of YAML.

    Args:
        path: The file.
        kind: What messages call it: ``recipe`` or ``benchmark``.

    Raises:
        RecipeError: If it is no regular file, too large, or no UTF-8.
    """
    try:
        return read_text(Path(path), largest=_MOST_BYTES)
    except (OSError, ValueError) as error:
        raise refusal(f"{kind} {path} cannot be read", str(error)) from error


def compose_yaml(name: str, text: str) -> yaml.Node | None:
    """Parse YAML into a tree of plain values.

    Args:
        name: What messages call it.
        text: The YAML.

    Returns:
        The root; None if there is none.

    Raises:
        RecipeError: If it is too large, nested too deeply, several documents, not YAML, holds an alias that contains
            itself or too much, a tag, or a key that is no word.
    """
    if len(text) > _MOST_BYTES:
        raise refusal(name, f"must have at most {_MOST_BYTES:,} characters, got {len(text):,}")
    try:
        _check_events(name, text)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        raise refusal(name, str(problem), None if mark is None else mark.line + 1) from error
    except UnicodeError as error:
        raise refusal(name, f"is not text: {error}") from error
    if root is not None:
        _check_nodes(name, root)
    return root


class _Counter:
    """Counts nodes as a reader would who writes every alias out, without doing so."""

    def __init__(self) -> None:
        # Of every collection that is open: its anchor, and what was counted before it.
        self.open: list[tuple[str | None, int]] = []
        self.sizes: dict[str, int] = {}
        self.nodes = 0
        self.written_out = 0

    def add(self, event: yaml.Event) -> str | None:
        """Count an event; returns what is wrong with it."""
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionEndEvent):
            opened, before = self.open.pop()
            if opened is not None:
                self.sizes[opened] = self.written_out - before
            return None
        if isinstance(event, yaml.AliasEvent):
            if anchor in (opened for opened, _ in self.open):
                return f"*{str(anchor)[:60]} must not stand inside what it names"
            self.written_out += self.sizes.get(anchor or "", 1)
        elif isinstance(event, yaml.NodeEvent):
            if isinstance(event, yaml.CollectionStartEvent):
                self.open.append((anchor, self.written_out))
            elif anchor is not None:
                self.sizes[anchor] = 1
            self.written_out += 1
        self.nodes += isinstance(event, yaml.NodeEvent)
        if len(self.open) > _MOST_DEPTH:
            return f"must be nested at most {_MOST_DEPTH} deep"
        if self.nodes > _MOST_NODES:
            return f"must hold at most {_MOST_NODES:,} values"
        if self.written_out - self.nodes > _MOST_REPEATED:
            return f"aliases must stand for at most {_MOST_REPEATED:,} values altogether; write them out"
        return None


def _check_events(name: str, text: str) -> None:
    counter, documents = _Counter(), 0
    for event in yaml.parse(text, Loader=_Loader):
        line = 1 if event.start_mark is None else event.start_mark.line + 1
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            raise refusal(name, "must be one YAML document, got a second one", line)
        tag = getattr(event, "tag", None)
        if isinstance(event, yaml.NodeEvent) and tag not in (None, "!", *_PLAIN):
            raise refusal(name, f"must hold plain values only, got the tag {show(tag)}; leave it out", line)
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > _MOST_CHARACTERS:
            long = f"a value must have at most {_MOST_CHARACTERS:,} characters, got {len(event.value):,}"
            raise refusal(name, long, line)
        problem = counter.add(event)
        if problem is not None:
            raise refusal(name, problem, line)


def _check_nodes(name: str, root: yaml.Node) -> None:
    merges = {id(key) for node in _walk(root) if isinstance(node, yaml.MappingNode) for key, _ in node.value}
    for node in _walk(root):
        if isinstance(node, yaml.MappingNode):
            key = next((key for key, _ in node.value if not isinstance(key, yaml.ScalarNode)), None)
            if key is not None:
                raise refusal(name, "a key must be a word, got a list or a mapping", key.start_mark.line + 1)
        if node.tag in _NUMBERS and len(node.value) > _MOST_DIGITS:
            long = f"a number must have at most {_MOST_DIGITS} digits, got {show(node.value)}"
            raise refusal(name, long, node.start_mark.line + 1)
        if node.tag not in _PLAIN and not (node.tag == _MERGE and id(node) in merges):
            kind = _QUOTE.get(node.tag, "no plain value")
            value = show(node.value)
            raise refusal(name, f"{value} without quotes is {kind}; write it in quotes", node.start_mark.line + 1)


def _walk(root: yaml.Node) -> Iterator[yaml.Node]:
    """Every node once, however many aliases there are."""
    seen: set[int] = set()
    left = [root]
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, yaml.MappingNode):
            left.extend(part for pair in reversed(node.value) for part in reversed(pair))
        elif isinstance(node, yaml.SequenceNode):
            left.extend(reversed(node.value))


def plain_values(name: str, root: yaml.Node) -> object:
    """The values that a checked tree stands for: mappings, lists, words, numbers, truth values and None.

    Raises:
        RecipeError: If a word is none of what its tag says.
    """
    lines = {id(node): node.start_mark.line + 1 for node in _walk(root)}
    try:
        return yaml.SafeLoader("").construct_document(root)
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:
        wrong = next((node for node in _walk(root) if not _can_be_read(node)), root)
        raise refusal(name, f"{show(wrong.value)} cannot be read: {_reason(error)}", lines.get(id(wrong))) from error


def _can_be_read(node: yaml.Node) -> bool:
    if not isinstance(node, yaml.ScalarNode):
        return True
    try:
        yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError, ArithmeticError):
        return node.tag == _MERGE
    return True


def _reason(error: Exception) -> str:
    return str(getattr(error, "problem", None) or error)


def line_of(root: yaml.Node, path: tuple[str | int, ...]) -> int:
    """The line of a value, or of the last mapping on the way to it that the text shows."""
    node = root
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            node = found[1]
            line = found[0].start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line if path and node is not root else root.start_mark.line + 1
