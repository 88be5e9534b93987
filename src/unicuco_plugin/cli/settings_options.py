"""One option for each training setting, made from the model that validates them, so that nothing is written twice."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from unicuco_plugin.errors import explain
from unicuco_plugin.search.settings import PRESETS, Settings

__all__ = ["read_settings", "settings_options"]

Function = TypeVar("Function", bound=Callable[..., Any])


def settings_options(function: Function) -> Function:
    """Add ``--preset`` and one option for each field of ``Settings``; :func:`read_settings` reads them."""
    for name, field in reversed(Settings.model_fields.items()):
        function = _option(name, field)(function)
    preset = click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        default="default",
        show_default=True,
        help="Settings to start from.",
    )
    return preset(function)


def read_settings(fields: dict[str, Any]) -> Settings:
    """Take the settings out of a command's arguments: the preset, and what was given beside it.

    Args:
        fields: The arguments of the command; ``preset`` and those of settings are removed.

    Raises:
        click.UsageError: If a value is out of its range.
    """
    preset = PRESETS[fields.pop("preset")]
    values = {name: fields.pop(name) for name in Settings.model_fields}
    given = {name: value for name, value in values.items() if value is not None}
    try:
        # What nobody has set stays so: a space may have its own.
        return Settings.model_validate(preset.model_dump(exclude_unset=True) | given)
    except ValidationError as error:
        raise click.UsageError(explain(error)) from error


def _option(name: str, field: FieldInfo) -> Callable[[Function], Function]:
    kind = _kind(field.annotation)
    spelling = f"--{name.replace('_', '-')}"
    if kind is bool:
        spelling = f"{spelling}/--no-{name.replace('_', '-')}"
    default = getattr(PRESETS["default"], name)
    shown = str(default).lower() if isinstance(default, bool) else default
    text = field.description or name
    # None where it was not given: then the preset's value stays.
    return click.option(
        spelling, name, type=kind, default=None, help=f"{text[:1].upper()}{text[1:]}.  [default preset: {shown}]"
    )


def _kind(annotation: Any) -> Any:  # noqa: ANN401 - any type that pydantic takes
    """The type of option for a field; pydantic checks the range."""
    if get_origin(annotation) is Literal:
        return click.Choice([str(value) for value in get_args(annotation)])
    kinds = [_kind(part) for part in get_args(annotation) if part is not type(None)]
    if kinds and all(isinstance(kind, click.Choice) for kind in kinds):
        return click.Choice([value for kind in kinds for value in kind.choices])
    if kinds:
        return kinds[0]
    return annotation if annotation in {int, float, bool} else str
