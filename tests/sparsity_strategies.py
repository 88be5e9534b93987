"""Strategies that zero weights of a model, for the tests of everything after the search."""

from depth_strategies import whole_block_strategy

from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.spaces.plan import plan_counts
from unicuco_plugin.strategy import Strategy

__all__ = ["linear_sizes", "sparsity_strategy", "uneven_units"]


def linear_sizes(model) -> dict[str, int]:
    """Every prunable linear's name and number of weights, in the model's order."""
    decoder = find_decoder(model)
    blocks = range(len(decoder.blocks))
    return {name: linear.weight.numel() for index in blocks for name, linear in decoder.linears(index).items()}


def uneven_units(model) -> dict[str, float]:
    """Blocks, a sub-layer and a linear of different shares; block 2 and most of block 4 lose nothing."""
    decoder = find_decoder(model)
    return {
        decoder.block_names[0]: 0.3,
        decoder.block_names[1]: 0.71234,
        decoder.sublayers(3)["attention"]: 0.55,
        list(decoder.linears(4))[-1]: 0.9,
        decoder.block_names[5]: 0.47,
    }


def sparsity_strategy(model, units=None, **changes) -> Strategy:
    """Build a strategy for a model; ``changes`` replace fields of its JSON."""
    units = uneven_units(model) if units is None else units
    sizes = linear_sizes(model)
    share = sum(plan_counts(units, sizes).values()) / sum(sizes.values())
    fields = {"space": "sparsity", "request": {"sparsity": 0.3}, "sparsity": share, "units": units}
    return whole_block_strategy(model, **(fields | changes))
