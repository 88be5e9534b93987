"""Which scheme each linear gets, held against what a server packs into one."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from compressed_tensors.quantization import QuantizationScheme
from torch import nn

from unicuco_plugin.errors import StrategyError, quoted
from unicuco_plugin.levels.toolkit_scheme import as_toolkit
from unicuco_plugin.models.blocks.mixtures import find_fused
from unicuco_plugin.models.fused_units import expert_linears, fused_units
from unicuco_plugin.schemes import DENSE, parse_scheme
from unicuco_plugin.spaces.plan import plan_schemes
from unicuco_plugin.strategy import Strategy

__all__ = ["config_groups", "expert_names", "packed_schemes"]

_EXPERT = re.compile(r"\.experts\.\d+\.")


def packed_schemes(model: Any, strategy: Strategy) -> dict[str, str]:  # noqa: ANN401 - a Transformers model
    """Give every linear its scheme, in the model's order.

    Args:
        model: With weights or without.
        strategy: Of a space that stores weights in fewer bits; it may come from a file.

    Raises:
        StrategyError: If a unit covers no linear, two cover the same one, or linears that a server packs into one would
            differ.
        UnsupportedModelError: If it is not seen what a server packs.
    """
    if not strategy.traits.stores:
        raise StrategyError(
            f"space must be 'precision' or 'compound' for weights to be stored, got {quoted(strategy.space)}"
        )
    units = fused_units(model)
    gone = tuple(f"{block}." for block in strategy.shares)
    plan = plan_schemes(strategy.schemes, [name for unit in units for name in unit.linears])
    inside = next((name for name in plan if name.startswith(gone)), None) if gone else None
    if inside is not None:
        raise StrategyError(f"units must give {quoted(inside)} no scheme, whose block goes")
    for unit in units:
        found = {plan.get(name, DENSE): name for name in unit.linears}
        if len(found) > 1:
            (one, first), (other, second) = list(found.items())[:2]
            raise StrategyError(
                f"units must give {quoted(unit.name)} one scheme, which a server packs into one linear; "
                f"{first.rpartition('.')[2]} has {one} and {second.rpartition('.')[2]} {other}"
            )
    return plan


def config_groups(plan: Mapping[str, str], experts: Collection[str] = ()) -> dict[str, QuantizationScheme]:
    """One disjoint group for each scheme, with explicit full names, as compressed-tensors takes them.

    Where all experts have one scheme its group has an expression for them as well: Transformers, which builds all of
    them from one group, looks for it there, and else takes the first group of all.

    Args:
        plan: Linear → scheme's name.
        experts: All linears of experts (:func:`expert_names`).
    """
    groups = {}
    shared = {plan.get(name, DENSE) for name in experts}
    for place, scheme in enumerate(dict.fromkeys(plan.values())):
        targets = [name for name, own in plan.items() if own == scheme]
        used = as_toolkit(parse_scheme(scheme))
        if shared == {scheme}:
            targets.append(f"re:.*{_EXPERT.pattern}.*")
        groups[f"group_{place}"] = used.model_copy(update={"targets": targets}, deep=True)
    return groups


def expert_names(model: nn.Module, gone: Iterable[str] = ()) -> list[str]:
    """Names of the linears of all experts of a model, of those that the family fuses as well.

    Args:
        model: With weights or without.
        gone: Names of blocks that leave.
    """
    found = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and _EXPERT.search(name)]
    for name, stack in find_fused(model).items():
        found += expert_linears(name, stack)
    away = tuple(f"{block}." for block in gone)
    return [name for name in found if not (away and name.startswith(away))]
