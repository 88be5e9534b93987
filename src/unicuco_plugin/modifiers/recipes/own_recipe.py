"""The recipe that we built, which is all that a checkpoint carries.

The toolkit puts what it runs behind whatever ``recipe.yaml`` lies beside the dense model, or on the hub.
"""

from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import yaml
from llmcompressor.core import active_session
from llmcompressor.modifiers import Modifier
from llmcompressor.recipe import Recipe
from llmcompressor.sentinel import Sentinel
from torch import nn

from unicuco_plugin.files.refusal import refusal, show
from unicuco_plugin.modifiers.recipes.quantised_experts import check_quantised_experts
from unicuco_plugin.modifiers.recipes.recipe_values import fields_of, find_fault, find_pattern_fault

__all__ = ["OwnRecipe", "adopt_recipe", "check_modifiers"]


# Where a modifier keeps what it remembers, which it finds out again, and no recipe can say: AWQ's offload_device.
_LEFT_OUT = (torch.device, Sentinel)


class OwnRecipe(Recipe):
    """A recipe whose text holds its own modifiers, every one of them and in their order, and reads no other recipe."""

    @classmethod
    def of(cls, recipe: Recipe) -> "OwnRecipe":
        """The same modifiers, in the very same list."""
        own = cls(args=recipe.args, stage=recipe.stage)
        own.modifiers = recipe.modifiers
        return own

    def yaml(self, file_path: str | None = None, existing_recipe_path: str | None = None) -> str:
        """Write the recipe so that it replays.

        Args:
            file_path: Where to write it as well.
            existing_recipe_path: The recipe beside the dense model, which is not read.

        Raises:
            RecipeError: If a field holds what no YAML can say, such as a function.
        """
        text = yaml.dump(
            {f"{self.stage}_stage": _groups(self.modifiers, self.stage)},
            Dumper=_Dumper,
            allow_unicode=True,
            sort_keys=False,
            default_flow_style=None,
            width=88,
        )
        if file_path is not None:
            Path(file_path).write_text(text, encoding="utf8")
        return text


class _Dumper(yaml.SafeDumper):
    """Writes a list out wherever it stands."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _groups(modifiers: Iterable[Modifier], stage: str) -> dict[str, dict[str, Any]]:
    """The modifiers by groups; a new one begins where a group that is over, or a type that it has, comes again."""
    groups: dict[str, dict[str, Any]] = {}
    last = ""
    for modifier in modifiers:
        kind = type(modifier).__name__
        name = getattr(modifier, "group", None) or stage
        if name != last or kind in next(reversed(groups.values()), {}):
            key, number = f"{name}_modifiers", 1
            while key in groups:
                number += 1
                key = f"{name}_{number}_modifiers"
            groups[key] = {}
        last = name
        fields = modifier.model_dump()
        next(reversed(groups.values()))[kind] = {
            field: _plain(value, f"{kind}: {field}")
            for field, value in fields.items()
            if value is not None and not isinstance(value, _LEFT_OUT) and not field.endswith("_") and field != "group"
        }
    return groups


def _plain(value: object, where: str) -> object:
    match value:
        case Enum():
            return _plain(value.value, where)
        case bool() | int() | float() | None:
            return value
        case str():
            return str(value)
        case dict():
            return {_plain(key, where): _plain(entry, where) for key, entry in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(entry, where) for entry in value]
        case _:
            raise refusal("recipe", f"{where} must be a plain value, which recipe.yaml can hold, got {show(value)}")


def check_modifiers(modifiers: Iterable[Modifier], model: nn.Module | None = None) -> None:
    """Refuse modifiers that are objects already, and patterns that would keep the toolkit busy without end.

    Args:
        modifiers: All of a recipe.
        model: Whose names their patterns will be matched with, if it is there.

    Raises:
        RecipeError: If a field is one that the toolkit would evaluate, a number is out of range, or a pattern is no
            expression or backtracks without end.
    """
    given = [(type(modifier).__name__, fields_of(modifier)) for modifier in modifiers]
    for kind, content in given:
        fault = find_fault(kind, content)
        if fault is not None:
            raise refusal("recipe", f"{kind}: {fault}")
    found = find_pattern_fault(given, [] if model is None else _names(model))
    if found is not None:
        raise refusal("recipe", f"{given[found[0]][0]}: {found[1]}")


def adopt_recipe(model: nn.Module) -> Recipe:
    """Check the recipe that the toolkit runs, and make it one that reads no other; one of ours is both already.

    Raises:
        RecipeError: If a modifier holds what must not be run, or would leave experts that Transformers does not find.
    """
    lifecycle = active_session().lifecycle
    if not isinstance(lifecycle.recipe, OwnRecipe):
        check_modifiers(lifecycle.recipe.modifiers, model)
        check_quantised_experts(model, lifecycle.recipe.modifiers)
        lifecycle.recipe = OwnRecipe.of(lifecycle.recipe)
    return lifecycle.recipe


def _names(model: nn.Module) -> list[str]:
    """What the toolkit matches patterns with: for what is inside a target it puts a dot behind the target's name."""
    found = [name for name, _ in model.named_modules()] + [name for name, _ in model.named_parameters()]
    return [*found, *(f"{name}." for name in found)]
