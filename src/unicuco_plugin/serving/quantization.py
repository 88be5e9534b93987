"""A checkpoint's ``quantization_config``, as compressed-tensors' own classes read it."""

from collections.abc import Mapping
from typing import Any

from compressed_tensors.quantization import QuantizationArgs
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from unicuco_plugin.errors import CheckpointError, clip, explain, quoted
from unicuco_plugin.patterns import find_bad_pattern

__all__ = ["METHOD", "Group", "Quantization", "parse_quantization"]

METHOD = "compressed-tensors"


class Group(BaseModel):
    """One of ``config_groups``: which modules, and how their weights and states are stored.

    Attributes:
        targets: Full module names, names of classes, or expressions behind ``re:``.
        weights: How weights are stored; None where none are.
        input_activations: How a module's input is rounded; None where it is not.
        output_activations: The same of its output.
        format: The layout of the tensors in the files; None where it is that of the whole configuration.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    targets: tuple[str, ...]
    weights: QuantizationArgs | None = None
    input_activations: QuantizationArgs | None = None
    output_activations: QuantizationArgs | None = None
    format: str | None = None


class Quantization(BaseModel):
    """The whole configuration.

    Attributes:
        config_groups: By name, in the file's order, which a server heeds.
        format: The layout of groups that name none.
        ignore: Modules that are left alone, in the spellings of targets.
        kv_cache_scheme: How the cache is stored.
        sparsity_config: Of releases of compressed-tensors before 0.15.
        transform_config: Rotations that are multiplied into weights or states.
        version: Of compressed-tensors that wrote the file; empty where it does not say.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    config_groups: dict[str, Group] = Field(default_factory=dict)
    format: str | None = None
    ignore: tuple[str, ...] = ()
    kv_cache_scheme: QuantizationArgs | None = None
    sparsity_config: dict[str, Any] | None = None
    transform_config: dict[str, Any] | None = None
    version: str = ""

    @field_validator("ignore", mode="before")
    @classmethod
    def _nothing_is_empty(cls, value: object) -> object:
        return () if value is None else value

    def format_of(self, group: Group) -> str:
        """The layout that holds for a group."""
        return group.format or self.format or ""


def parse_quantization(data: Mapping[str, Any]) -> Quantization:
    """Read a ``quantization_config``.

    Args:
        data: As it stands in the file.

    Raises:
        CheckpointError: If it is of another method, a field is wrong, or one of its expressions cannot be used.
    """
    method = data.get("quant_method", METHOD)
    if method != METHOD:
        raise CheckpointError(
            f"quant_method must be {METHOD}, got {quoted(method)}; other methods have rules of their own, which are "
            "not known here"
        )
    try:
        parsed = Quantization.model_validate(dict(data))
    except ValidationError as error:
        raise CheckpointError(f"quantization_config cannot be read: {explain(error)}") from error
    except (NotImplementedError, ValueError, TypeError) as error:  # of compressed-tensors' own validators
        raise CheckpointError(f"quantization_config cannot be read: {clip(str(error), 200)}") from error
    spelled = [*parsed.ignore, *(target for group in parsed.config_groups.values() for target in group.targets)]
    bad = find_bad_pattern(text.removeprefix("re:") for text in spelled if text.startswith("re:"))
    if bad is not None:
        raise CheckpointError(f"quantization_config: the expression {quoted(bad.pattern)} {bad.reason}")
    return parsed
