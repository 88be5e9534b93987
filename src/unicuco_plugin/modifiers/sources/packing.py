"""Which scheme each linear gets, held against what a server packs into one."""

from collections.abc import Mapping
from typing import Any

from compressed_tensors.quantization import QuantizationScheme

from unicuco_plugin.errors import StrategyError, quoted
from unicuco_plugin.levels.toolkit_scheme import as_toolkit
from unicuco_plugin.models.fused_units import fused_units
from unicuco_plugin.schemes import DENSE, parse_scheme
from unicuco_plugin.spaces.plan import plan_schemes
from unicuco_plugin.strategy import Strategy

__all__ = ["config_groups", "packed_schemes"]


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
    plan = plan_schemes(strategy.schemes, [name for unit in units for name in unit.linears])
    for unit in units:
        found = {plan.get(name, DENSE): name for name in unit.linears}
        if len(found) > 1:
            (one, first), (other, second) = list(found.items())[:2]
            raise StrategyError(
                f"units must give {quoted(unit.name)} one scheme, which a server packs into one linear; "
                f"{first.rpartition('.')[2]} has {one} and {second.rpartition('.')[2]} {other}"
            )
    return plan


def config_groups(plan: Mapping[str, str]) -> dict[str, QuantizationScheme]:
    """One disjoint group for each scheme, with explicit full names, as compressed-tensors takes them.

    Args:
        plan: Linear → scheme's name.
    """
    groups = {}
    for place, scheme in enumerate(dict.fromkeys(plan.values())):
        targets = [name for name, own in plan.items() if own == scheme]
        used = as_toolkit(parse_scheme(scheme))
        groups[f"group_{place}"] = used.model_copy(update={"targets": targets}, deep=True)
    return groups
