"""Which recipes leave quantised experts that Transformers loads."""

from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from compressed_tensors.compressors.format import infer_module_format
from compressed_tensors.quantization import QuantizationScheme
from compressed_tensors.utils import match_targets
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.quantization import QuantizationMixin
from torch import nn

from unicuco_plugin.errors import RecipeError
from unicuco_plugin.models.blocks.experts import disk_names
from unicuco_plugin.models.blocks.mixtures import EXPERT_LINEARS, find_fused, find_split

__all__ = ["check_expert_groups", "check_quantised_experts"]

_PACKED = "pack-quantized"


def check_quantised_experts(model: Any, modifiers: Sequence[Modifier]) -> None:  # noqa: ANN401 - a Transformers model
    """Refuse a recipe after which Transformers would not find a mixture's experts.

    It has its own form of experts, one tensor for all, and makes it from quantised linears of each expert: of all or
    of none, of families whose files hold linears, in FP8 or packed integers. Of experts that were left out it finds
    the tensors in an FP8 checkpoint alone.

    Args:
        model: The model, or a sketch of it on the meta device.
        modifiers: All of the recipe.

    Raises:
        RecipeError: With the reason, and what can be done.
    """
    for modifier in modifiers:
        if isinstance(modifier, QuantizationMixin):
            groups = list(modifier.resolved_config.config_groups.values())
            check_expert_groups(model, groups, modifier.ignore, type(modifier).__name__)


def check_expert_groups(
    model: Any,  # noqa: ANN401 - a Transformers model
    groups: Sequence[QuantizationScheme],
    ignore: Sequence[str],
    who: str,
    *,
    gone: Collection[str] = (),
) -> None:
    """The same of groups of schemes, whoever has them.

    Args:
        model: The model, or a sketch of it on the meta device.
        groups: Schemes with their targets.
        ignore: Patterns of linears that have none.
        who: What the message begins with.
        gone: Names of blocks that will have left.

    Raises:
        RecipeError: With the reason, and what can be done.
    """
    names = [*find_fused(model), *find_split(model)]
    names = [name for name in names if not name.startswith(tuple(f"{block}." for block in gone))]
    groups = [group for group in groups if group.weights is not None]
    files = disk_names(model, names[0]) if names else {}
    if not names or not groups or not (linears := files or dict.fromkeys(chain(*EXPERT_LINEARS.values()))):
        return
    schemes = [_scheme_of(f"{name}.0.{linear}", groups, ignore) for name in names for linear in linears]
    reason = _explain(groups, [scheme for scheme in schemes if scheme is not None], len(schemes), bool(files))
    if reason:
        raise RecipeError(f"{who}: {type(model).__name__} would not load again: {reason}")


def _scheme_of(name: str, groups: Sequence[QuantizationScheme], ignore: Sequence[str]) -> QuantizationScheme | None:
    linear = nn.Linear(1, 1, device="meta")
    if match_targets(name, linear, ignore):
        return None
    return next((group for group in groups if match_targets(name, linear, group.targets)), None)


def _explain(
    groups: Sequence[QuantizationScheme], experts: Sequence[QuantizationScheme], count: int, in_files: bool
) -> str:
    kinds = set(_kinds(experts or groups))
    if not experts:
        if in_files and "fp8" not in kinds:
            return (
                "where other linears are quantised so, Transformers wants the experts quantised too; take experts out "
                "of ignore (a packed scheme such as W4A16), or use FP8_DYNAMIC"
            )
        return ""
    if not in_files:
        return (
            "its files hold all experts in one tensor, and Transformers does not make that of quantised linears; "
            "ignore the experts (re:.*experts.*)"
        )
    if len(experts) < count or any(expert.weights != experts[0].weights for expert in experts):
        return (
            "Transformers wants all linears of the experts quantised or none; change ignore or targets"
            if len(experts) < count
            else "Transformers builds all experts of all blocks from one scheme; give them the same"
        )
    if not kinds <= {"fp8", "packed"}:
        return "Transformers reads quantised experts in FP8 or packed integers alone; use FP8_DYNAMIC or W4A16"
    return ""


def _kinds(groups: Sequence[QuantizationScheme]) -> Iterator[str]:
    for group in groups:
        weights = group.weights
        if (
            weights is not None
            and weights.type == "float"
            and weights.num_bits == torch.finfo(torch.float8_e4m3fn).bits
        ):
            yield "fp8"
        else:
            yield "packed" if infer_module_format(nn.Linear, group).value == _PACKED else "other"
