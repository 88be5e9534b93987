"""What a strategy that was read says of its own size, held against the model that it is applied to."""

from typing import Any

import torch
from loguru import logger

from unicuco_plugin.costs.measure import measure_costs, part_costs, uneven_costs, with_serving
from unicuco_plugin.costs.memory import ServedCosts
from unicuco_plugin.costs.model import TableCosts
from unicuco_plugin.costs.stored import scheme_costs
from unicuco_plugin.errors import StrategyError, quoted
from unicuco_plugin.models.blocks.decoder import Decoder, find_decoder
from unicuco_plugin.models.blocks.mixtures import EXPERT_OUTPUT, find_fused
from unicuco_plugin.models.blocks.sizes import measure_sizes
from unicuco_plugin.models.fused_units import expert_linears
from unicuco_plugin.models.sketch import sketch_model
from unicuco_plugin.modifiers.sources.packing import packed_schemes
from unicuco_plugin.pruning import dropped_blocks
from unicuco_plugin.quantities import Memory
from unicuco_plugin.schemes import DENSE_BITS
from unicuco_plugin.strategy import Strategy

__all__ = ["recount"]

# A few bytes for each tensor in a file's header, where shapes are written in fewer digits.
_HEADERS = 0.01
# A checkpoint in float32 and the same one in bfloat16 have one fingerprint.
_WIDTHS = (0.5, 1.0, 2.0)
# Bits are written to nine decimals.
_ROUNDING = 1e-6


def recount(model: Any, strategy: Strategy) -> Strategy:  # noqa: ANN401 - a Transformers model
    """Count ``params``, ``bytes`` and ``bits`` anew where what a file says cannot be, and warn; ``memory`` always.

    Times are forgotten: a device's table alone knows them. Both sizes of a structured strategy are right: with biases
    for what goes, and without. So are all mean bits that leave some of the units without a scheme out of the mean, as a
    training with ``ignore`` does.

    Args:
        model: The dense model; it is neither run nor changed.
        strategy: From a file or a recipe.

    Raises:
        UnsupportedModelError: If the model's modules cannot be found.
    """
    decoder = find_decoder(sketch_model(model.config, type(model)))
    try:
        counted, bits = _count(decoder, strategy)
    except StrategyError:  # which whoever carries it out explains
        return strategy
    right: dict[str, Any] = {}
    if strategy.params not in [params for params, _ in counted]:
        right["params"] = counted[0][0]
    sizes = [size * width for _, size in counted for width in _WIDTHS]
    if not any(abs(strategy.bytes / size - 1.0) <= _HEADERS for size in sizes):
        right["bytes"] = counted[0][1]
    if strategy.bits is not None and not bits[0] - _ROUNDING <= strategy.bits <= bits[1] + _ROUNDING:
        right["bits"] = bits[1]
    for name, value in right.items():
        logger.warning(
            f"strategy of the space {quoted(strategy.space)}: {name} says {getattr(strategy, name):.12g}, its units "
            f"leave {value:.12g} of this model; {value:.12g} is reported"
        )
    right["latency"] = None
    if strategy.memory is not None:
        right["memory"] = _memory(decoder, strategy, right.get("bytes", strategy.bytes))
    return strategy.model_copy(update=right)


def _memory(decoder: Decoder, strategy: Strategy, size: int) -> Memory | None:
    """What a server needs, counted here, whatever a file says; None where nobody knows or asks."""
    # Schemes keep what the dense model keeps, but for blocks that go beside them.
    known = [measure_costs(decoder, "depth")] if strategy.traits.stores else _whole_costs(decoder, strategy)
    own = (costs for costs in known if _sizes(costs, costs.row(strategy.shares))[0] == strategy.params)
    costs = with_serving(next(own, known[0]), decoder)
    if costs.table.serving is None or strategy.request.load is None:
        return None
    served = ServedCosts.under(costs, strategy.request.load)
    return Memory(weights=size, cache=int(served.cache(served.row(strategy.shares))), buffers=served.buffers)


def _count(decoder: Decoder, strategy: Strategy) -> tuple[list[tuple[int, int]], tuple[float, float]]:
    """Parameters and bytes that a strategy may say, what its units leave first; the least and the most mean bits."""
    if strategy.traits.stores:
        return _count_stored(decoder, strategy)
    every = DENSE_BITS, DENSE_BITS
    if not strategy.traits.cuts:
        return [_sizes(costs, costs.row(strategy.shares)) for costs in _whole_costs(decoder, strategy)], every
    both = [part_costs(decoder, compensate=compensate) for compensate in (True, False)]
    found = [_sizes(costs, costs.row(strategy.shares)) for costs in both]
    if decoder.family.llama_like:  # the form deci, where it has room
        uneven = part_costs(decoder, compensate=False, uneven=True)
        if strategy.shares.keys() <= set(uneven.units):
            found.append(_sizes(uneven, uneven.row(strategy.shares)))
    # In the stock format everything stays, and biases come.
    return [*found, *(_sizes(costs, torch.zeros(1, len(costs.units))) for costs in both)], every


def _whole_costs(decoder: Decoder, strategy: Strategy) -> list[TableCosts]:
    """What counts a strategy without parts: first as its space does, then in the form ``deci``."""
    known = [measure_costs(decoder, strategy.space)]
    return [*known, uneven_costs(decoder)] if strategy.traits.halves and decoder.family.llama_like else known


def _count_stored(decoder: Decoder, strategy: Strategy) -> tuple[list[tuple[int, int]], tuple[float, float]]:
    """The same of schemes, and of blocks that leave beside them."""
    weights, sizes = _weights(decoder), measure_sizes(decoder)
    plan = {name: (scheme,) for name, scheme in packed_schemes(decoder.model, strategy).items()}
    params, size, used, stored = sizes.total_params, sizes.total_bytes, 0.0, 0.0
    if plan:
        costs = scheme_costs(decoder, {name: (name,) for name in plan}, plan, weights)
        x = torch.tensor([[1.0 - row[-1][1] / DENSE_BITS for row in costs.table.choices]], dtype=torch.float64)
        params, size = _sizes(costs, x)
        stored = costs.params.sum().item()
        used = costs.of("bits", x).item() * stored
    leave = dropped_blocks(decoder, strategy) if strategy.traits.whole else ()
    inside = tuple(f"{decoder.block_names[index]}." for index in leave)
    gone = sum(weight.numel() for name, weight in weights.items() if name.startswith(inside)) if inside else 0
    total = sum(weight.numel() for weight in weights.values())
    params -= sum(sizes.block_params[index] for index in leave)
    size -= sum(sizes.block_bytes[index] for index in leave)
    # Of what has a scheme or leaves alone, and of all linears of the blocks.
    rest = DENSE_BITS * (total - stored - gone)
    return [(params, size)], (used / max(stored + gone, 1.0), (used + rest) / total)


def _sizes(costs: TableCosts, x: torch.Tensor) -> tuple[int, int]:
    return int(costs.of("params", x)), int(costs.of("bytes", x))


def _weights(decoder: Decoder) -> dict[str, torch.Tensor]:
    """Of every linear of the blocks, without data; experts that the family fuses as they are apart."""
    found = {name: linear.weight for name, linear in decoder.all_linears().items()}
    for name, fused in find_fused(decoder.model).items():
        first = fused.get_parameter(EXPERT_OUTPUT)[0]
        down = first.T if fused.is_transposed else first
        for linear in expert_linears(name, fused):
            found[linear] = down if linear.endswith(EXPERT_OUTPUT) else down.T
    return found
