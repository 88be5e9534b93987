"""A recipe checked before it runs: what the toolkit would misread without an error is refused here."""

from collections.abc import Iterator
from pathlib import Path

import yaml
from llmcompressor.modifiers import Modifier
from llmcompressor.recipe import Recipe

from unicuco_plugin.errors import RecipeError, UnicucoError, quoted
from unicuco_plugin.modifiers.registration import register

__all__ = ["check_pipeline", "check_recipe", "is_text", "plain_recipe"]

# How PyYAML writes an enumeration's member: as a call of its class.
_CALL = "tag:yaml.org,2002:python/object/apply:"
_INT = "tag:yaml.org,2002:int"
_NULL = "tag:yaml.org,2002:null"


def check_recipe(source: str | Path) -> Recipe:
    """Read a YAML recipe and refuse what the toolkit accepts and then silently does not do.

    Refused are: an empty recipe; keys that do not end in ``_stage`` and ``_modifiers``, which it skips; a key given
    twice, of which it keeps the last; a modifier without a body; ``2:4`` without quotes, which YAML reads as 124.

    Args:
        source: A recipe file, or the text of a recipe.

    Returns:
        The toolkit's recipe, its modifiers built.

    Raises:
        RecipeError: If the recipe cannot be read or is refused; the message names the line.
    """
    name, text = _read(source)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "not YAML"
        raise RecipeError(f"{name}{f', line {where.line + 1}' if where else ''}: {problem}") from error
    problem = next(_problems(root), None)
    if problem is not None:
        node, message = problem
        raise RecipeError(f"{name}{f', line {node.start_mark.line + 1}' if node else ''}: {message}")
    return _build(name, text)


def check_pipeline(modifiers: list[Modifier], pipeline: str, *, with_data: bool) -> None:
    """Refuse to run a modifier without the calibration data that it needs: the toolkit would do nothing with it.

    Args:
        modifiers: The recipe's modifiers.
        pipeline: The toolkit's pipeline: ``independent``, ``sequential``, ``basic`` or ``datafree``.
        with_data: Whether there is calibration text.

    Raises:
        RecipeError: If a modifier requires calibration data and would get none, or there is no modifier.
    """
    if not modifiers:
        raise RecipeError("the recipe holds no modifier")
    hungry = [type(modifier).__name__ for modifier in modifiers if modifier.requires_calibration_data]
    # A peer reads the text itself, whatever the pipeline does with it.
    reading = [type(modifier).__name__ for modifier in modifiers if getattr(modifier, "needs_text", False)]
    if hungry and pipeline == "datafree":
        raise RecipeError(f"pipeline must not be 'datafree' with {', '.join(hungry)}: calibration data is required")
    if (hungry or reading) and not with_data:
        raise RecipeError(f"{', '.join(reading + hungry)} needs calibration text, got none; pass --calibration FILE")


def plain_recipe(text: str) -> str:
    """Write a ``recipe.yaml`` of the toolkit so that the toolkit itself can read it.

    With GPTQ in it, it holds a Python object (``actorder``) where it should hold a word, and is refused when it is
    read back. What is plain already is returned as it is.

    Raises:
        RecipeError: If it holds what no recipe should.
    """
    if "!!python/" not in text:
        return text
    try:
        data = yaml.load(text, Loader=_WordLoader)  # noqa: S506 - a SafeLoader that calls nothing
    except yaml.YAMLError as error:
        raise RecipeError(f"recipe.yaml of the toolkit cannot be read back: {error}") from error
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=None, width=88)


class _WordLoader(yaml.SafeLoader):
    """Reads the one argument of a call in its place."""


def _read_argument(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> object:
    values = loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
    if len(values) != 1:
        raise yaml.constructor.ConstructorError(None, None, f"unexpected {node.tag}", node.start_mark)
    return values[0]


_WordLoader.add_multi_constructor(_CALL, _read_argument)


def is_text(source: str | Path) -> bool:
    """Whether a recipe is given as text, and not as a file's name."""
    return isinstance(source, str) and ("\n" in source or ": " in source or not source.strip())


def _read(source: str | Path) -> tuple[str, str]:
    if isinstance(source, str) and is_text(source):
        return "recipe", source
    try:
        return str(source), Path(source).read_text(encoding="utf8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {source} cannot be read: {error}") from error


def _build(name: str, text: str) -> Recipe:
    register()
    try:
        return Recipe.create_instance(text)
    except UnicucoError:
        raise
    except (ValueError, TypeError, AttributeError) as error:
        # pydantic's first line counts the errors, the next ones name them.
        reason = " ".join(line.strip() for line in str(error).splitlines() if "errors.pydantic.dev" not in line)
        raise RecipeError(f"{name}: {reason}") from error


_Problem = tuple[yaml.Node | None, str]


def _problems(root: yaml.Node | None) -> Iterator[_Problem]:
    """Yield what is wrong, the worst first, each with the node that it is wrong at."""
    if root is None or root.tag == _NULL:
        yield None, "the recipe is empty"
        return
    if not isinstance(root, yaml.MappingNode):
        yield root, "a recipe is a mapping of stages, such as pruning_stage: {pruning_modifiers: …}"
        return
    yield from _repeated(root)
    yield from _misread(root)
    count = 0
    for key, stage in root.value:
        if key.value == "args":
            continue
        if not key.value.endswith("_stage"):
            yield key, f"{quoted(key.value)} would be skipped: the name of a stage must end in _stage"
        for group_key, group in _entries(key, stage):
            if not group_key.value.endswith("_modifiers"):
                name = quoted(group_key.value)
                yield group_key, f"{name} would be skipped: the name of a group must end in _modifiers"
            for modifier, body in _entries(group_key, group):
                count += 1
                if not isinstance(body, yaml.MappingNode):
                    yield modifier, f"{modifier.value} has no body; write its fields below it, or {{}}"
    if not count:
        yield None, "the recipe holds no modifier"


def _entries(key: yaml.Node, node: yaml.Node) -> list[tuple[yaml.Node, yaml.Node]]:
    if isinstance(node, yaml.MappingNode) and node.value:
        return list(node.value)
    raise RecipeError(f"recipe, line {key.start_mark.line + 1}: {quoted(key.value)} is empty and would be skipped")


def _repeated(node: yaml.Node, depth: int = 0) -> Iterator[_Problem]:
    if isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            yield from _repeated(entry, depth)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.value in seen:
            hint = "; put the second one into a group of its own" if depth == 2 else ""
            yield key, f"{quoted(key.value)} stands here and in line {seen[key.value]}, and the last would win{hint}"
        seen[str(key.value)] = line
        yield from _repeated(value, depth + 1)


def _misread(node: yaml.Node) -> Iterator[_Problem]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _misread(key)
            yield from _misread(value)
    elif isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            yield from _misread(entry)
    elif node.tag == _INT and ":" in node.value:
        read = yaml.safe_load(node.value)
        yield node, f"{node.value} without quotes is the number {read} in YAML; write '{node.value}'"
