"""A recipe checked before it runs: what the toolkit would misread without an error, or run, is refused here."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from llmcompressor.modifiers import Modifier
from llmcompressor.recipe import Recipe

from unicuco_plugin.errors import RecipeError, UnicucoError
from unicuco_plugin.files.refusal import refusal, show
from unicuco_plugin.files.yaml_tree import compose_yaml, line_of, plain_values, read_yaml
from unicuco_plugin.modifiers.recipes.own_recipe import OwnRecipe, check_modifiers
from unicuco_plugin.modifiers.recipes.recipe_values import fields_of, find_fault, find_pattern_fault
from unicuco_plugin.modifiers.registration import register

__all__ = ["build_recipe", "check_pipeline", "check_recipe", "is_text"]

_INT = "tag:yaml.org,2002:int"
_NULL = "tag:yaml.org,2002:null"
# A modifier that could not be imported raises what its module did.
_TOOLKIT_RAISES = (
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(RuntimeError, OSError, ImportError, AssertionError),
)


def check_recipe(source: str | Path) -> Recipe:
    """Read a YAML recipe and refuse what the toolkit accepts and then silently does not do, or would run.

    Refused are: an empty recipe; keys that do not end in ``_stage`` and ``_modifiers``, which it skips; a key given
    twice, of which it keeps the last; a modifier without a body; ``2:4`` without quotes, which YAML reads as 124;
    schedulers that it evaluates and names of Python files that it imports; numbers that are not finite and sparsities
    that are no share; patterns that do not compile or backtrack without end; what is too large or too deep to be a
    recipe, aliases written out.

    Args:
        source: A recipe file, or the text of a recipe.

    Returns:
        The toolkit's recipe, its modifiers built.

    Raises:
        RecipeError: If the recipe cannot be read or is refused; the message names the line.
    """
    name, text = _read(source)
    root = compose_yaml(name, text)
    problem = next(_problems(root), None)
    if problem is not None or root is None:
        node, message = problem or (None, "the recipe is empty")
        raise refusal(name, message, node.start_mark.line + 1 if node else None)
    data = plain_values(name, root)
    paths = _check_values(name, root, data)
    recipe = _build(name, data)
    # What pydantic made of the words: it takes "inf" in quotes for a number.
    for path, modifier in zip(paths, recipe.modifiers, strict=True):
        _check_fields(name, root, path, fields_of(modifier))
    return recipe


def build_recipe(modifiers: Sequence[Modifier]) -> Recipe:
    """Make a recipe of modifiers, and refuse of them what :func:`check_recipe` refuses of a text.

    Raises:
        RecipeError: If one is refused, is no modifier, or could not be written into ``recipe.yaml``.
    """
    try:
        recipe = OwnRecipe.of(Recipe.from_modifiers(list(modifiers)))
    except (ValueError, TypeError) as error:
        raise refusal("recipe", _first_words(error)) from error
    check_modifiers(recipe.modifiers)
    recipe.yaml()
    return recipe


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
    calibrated = [type(modifier).__name__ for modifier in modifiers if modifier.requires_calibration_data]
    # A peer reads the text itself, whatever the pipeline does with it.
    reading = [type(modifier).__name__ for modifier in modifiers if getattr(modifier, "needs_text", False)]
    if calibrated and pipeline == "datafree":
        raise RecipeError(f"pipeline must not be 'datafree' with {', '.join(calibrated)}: calibration data is required")
    if (calibrated or reading) and not with_data:
        raise RecipeError(
            f"{', '.join(reading + calibrated)} needs calibration text, got none; pass --calibration FILE"
        )


def is_text(source: str | Path) -> bool:
    """Whether a recipe is given as text, and not as a file's name."""
    return isinstance(source, str) and ("\n" in source or ": " in source or not source.strip())


def _read(source: str | Path) -> tuple[str, str]:
    if isinstance(source, str) and is_text(source):
        return "recipe", source
    return str(source), read_yaml(source, "recipe")


def _check_values(name: str, root: yaml.Node, data: object) -> list[tuple[str, ...]]:
    """Refuse values before the toolkit has seen one of them; returns the path of keys to every modifier."""
    given, paths = [], []
    for path, fields in _bodies(data):
        if not isinstance(fields, dict):
            raise refusal(name, f"{path[-1]} has no body; write its fields below it, or {{}}", line_of(root, path))
        _check_fields(name, root, path, fields)
        given.append((path[-1], fields))
        paths.append(path)
    found = find_pattern_fault(given)
    if found is not None:
        place, fault = found
        raise refusal(name, f"{paths[place][-1]}: {fault}", line_of(root, (*paths[place], *fault.path)))
    return paths


def _check_fields(name: str, root: yaml.Node, path: tuple[str, ...], fields: dict[str, Any]) -> None:
    fault = find_fault(path[-1], fields)
    if fault is not None:
        raise refusal(name, f"{path[-1]}: {fault}", line_of(root, (*path, *fault.path)))


def _bodies(data: object) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every modifier's fields, with the path to them."""
    stages = {key: stage for key, stage in data.items() if key != "args"} if isinstance(data, dict) else {}
    for key, stage in stages.items():
        for group_key, group in stage.items():
            for kind, fields in group.items():
                yield (str(key), str(group_key), str(kind)), fields


def _build(name: str, data: Any) -> Recipe:  # noqa: ANN401 - a recipe of mappings, checked by now
    register()
    try:
        return OwnRecipe.of(Recipe.from_dict(data))
    except RecipeError as error:
        raise refusal(name, str(error)) from error
    except UnicucoError:
        raise
    except _TOOLKIT_RAISES as error:
        raise refusal(name, _first_words(error)) from error


def _first_words(error: Exception) -> str:
    # pydantic's first line counts the errors, the next ones name them.
    return " ".join(line.strip() for line in str(error).splitlines() if "errors.pydantic.dev" not in line)


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
            yield key, f"{show(key.value)} would be skipped: the name of a stage must end in _stage"
        if not _entries(stage):
            yield key, f"{show(key.value)} is empty and would be skipped"
        for group_key, group in _entries(stage):
            if not group_key.value.endswith("_modifiers"):
                yield group_key, f"{show(group_key.value)} would be skipped: the name of a group must end in _modifiers"
            if not _entries(group):
                yield group_key, f"{show(group_key.value)} is empty and would be skipped"
            for modifier, body in _entries(group):
                count += 1
                if not isinstance(body, yaml.MappingNode):
                    yield modifier, f"{show(modifier.value)[1:-1]} has no body; write its fields below it, or {{}}"
    if not count:
        yield None, "the recipe holds no modifier"


def _entries(node: yaml.Node) -> list[tuple[yaml.Node, yaml.Node]]:
    return list(node.value) if isinstance(node, yaml.MappingNode) else []


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
            yield key, f"{show(key.value)} stands here and in line {seen[key.value]}, and the last would win{hint}"
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
