"""Strategies that store weights of a tiny model in fewer bits, for the tests of everything after the search."""

from depth_strategies import whole_block_strategy

from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.fused_units import fused_units
from unicuco_plugin.strategy import Strategy

__all__ = ["scheme_strategy", "scheme_units"]


def scheme_units(model, *schemes) -> dict[str, str]:
    """Give units of the blocks schemes in turn; None leaves one alone."""
    inside = set(find_decoder(model).all_linears())
    units = [unit.name for unit in fused_units(model) if set(unit.linears) <= inside]
    chosen = {unit: schemes[place % len(schemes)] for place, unit in enumerate(units)}
    return {unit: scheme for unit, scheme in chosen.items() if scheme is not None}


def scheme_strategy(model, units, **changes) -> Strategy:
    """Build a strategy for a model; ``changes`` replace fields of its JSON."""
    fields = {"space": "precision", "request": {"bits": 8.0}, "sparsity": 0.0, "bits": 8.0, "units": units}
    return whole_block_strategy(model, **(fields | changes))
