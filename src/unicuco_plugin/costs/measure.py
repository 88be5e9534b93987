"""What units weigh in the checkpoint of a model: the tables of costs, measured from shapes alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from unicuco_plugin.costs.model import TableCosts
from unicuco_plugin.costs.table import CostTable, KeptState, ServingTable
from unicuco_plugin.errors import UnknownNameError, quoted
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.sizes import ModelSizes, measure_sizes, tensor_bytes
from unicuco_plugin.models.blocks.sublayers import sublayer_names, sublayer_params
from unicuco_plugin.models.caches import served_sizes
from unicuco_plugin.models.parts.parts import Parts, find_parts, leaving_blocks
from unicuco_plugin.models.tensors.storage import count_parameters, kept_tensors
from unicuco_plugin.spaces.structured import ROUND_TO
from unicuco_plugin.traits import Effect, traits_of

__all__ = [
    "block_costs",
    "half_costs",
    "linear_costs",
    "measure_costs",
    "part_costs",
    "plain_table",
    "uneven_costs",
    "with_serving",
]


def block_costs(decoder: Decoder) -> TableCosts:
    """Blocks, each of which leaves by itself."""
    sizes = measure_sizes(decoder)
    table = plain_table(sizes, sizes.block_params, sizes.block_bytes)
    return TableCosts(decoder.block_names, table, physical=True)


def half_costs(decoder: Decoder) -> TableCosts:
    """Attentions and MLPs: blocks leave that lose both; what only half a block lacks is zeroed and stays in the files.

    Raises:
        UnsupportedModelError: If a half lies in no module of its own.
    """
    sizes, params = measure_sizes(decoder), sublayer_params(decoder)
    pairs = zip(sizes.block_params, sizes.block_bytes, strict=True)
    table = plain_table(sizes, tuple(params.values()), (0,) * len(params))
    table = table.model_copy(update={"blocks": dict(zip(decoder.block_names, pairs, strict=True))})
    return TableCosts(tuple(params), table, physical=False)


def uneven_costs(decoder: Decoder) -> TableCosts:
    """Attentions and MLPs that leave by themselves, each with the norm before it, as in the form ``deci``.

    Bytes are never below those on disk, and a few above: blocks get smaller numbers when others leave.

    Raises:
        UnsupportedModelError: If a half lies in no module of its own.
    """
    names, own = tuple(sublayer_params(decoder)), _with_norms(decoder)
    counts = [sum(tensor.numel() for tensor in own[name].values()) for name in names]
    size = tensor_bytes(decoder, *(own[name] for name in names))
    return TableCosts(names, plain_table(measure_sizes(decoder), counts, size), physical=True)


def linear_costs(decoder: Decoder, weights: Mapping[str, int] | None = None) -> TableCosts:
    """Linears or groups of them, whose zeros stay in the files.

    Args:
        decoder: The dense model.
        weights: Prunable weights of each unit; those of every linear if left out.

    Raises:
        UnsupportedModelError: If there is no linear.
    """
    if weights is None:
        with kept_tensors():
            weights = {name: linear.weight.numel() for name, linear in decoder.all_linears().items()}
    table = plain_table(measure_sizes(decoder), tuple(weights.values()), (0,) * len(weights))
    return TableCosts(tuple(weights), table, physical=False)


def part_costs(
    decoder: Decoder, *, round_to: int = ROUND_TO, compensate: bool = True, uneven: bool = False
) -> TableCosts:
    """Attentions and MLPs whose parts go, in the compact checkpoint, to the parameter.

    Where a module loses some of its parts its output gets a bias, if ``compensate`` and it has none. A block that loses
    both modules leaves with its norms. Bytes are never below those on disk, and a few bytes a tensor above: shapes are
    written in fewer digits when they shrink.

    In the form ``deci`` attentions go whole, that of the first block stays, and a module that goes takes the norm
    before it along.

    Args:
        decoder: The dense model.
        round_to: Neurons that go together, at least 1; head groups go one by one.
        compensate: Whether biases stand for what is removed.
        uneven: Whether the checkpoint has the form ``deci``.

    Raises:
        UnsupportedModelError: If the model's modules cannot be split into parts.
    """
    sizes, parts = measure_sizes(decoder), find_parts(decoder)
    if uneven:
        parts.pop(next((name for name, part in parts.items() if part.kind == "attention"), ""), None)
    together = {name: 1 if part.kind == "attention" else min(round_to, part.count) for name, part in parts.items()}
    if uneven:
        together |= {name: part.count for name, part in parts.items() if part.kind == "attention"}
    norms = _with_norms(decoder) if uneven else {}
    counted = {name: _beside(decoder, part, norms.get(name), compensate=compensate) for name, part in parts.items()}
    width = sizes.bytes_per_param
    blocks: dict[str, tuple[int, int]] = {}
    for block, inside in {} if uneven else leaving_blocks(decoder, parts).items():
        index = decoder.block_names.index(block)
        params = sum(parts[n].params * parts[n].count + counted[n][0][0] for n in inside)
        size = sum(parts[n].params * parts[n].count * width + counted[n][0][1] for n in inside)
        blocks[block] = (sizes.block_params[index] - params, sizes.block_bytes[index] - size)
    table = CostTable(
        unit_params=tuple(part.params * part.count for part in parts.values()),
        unit_bytes=tuple(part.params * part.count * width for part in parts.values()),
        total_params=sizes.total_params,
        total_bytes=sizes.total_bytes,
        dtype=sizes.dtype,
        blocks=blocks,
        parts=tuple((part.count, together[name]) for name, part in parts.items()),
        rests=tuple(counted[name][0] for name in parts),
        biases=tuple(counted[name][1] for name in parts),
    )
    return TableCosts(tuple(parts), table, physical=True)


# Who measures what; a new effect adds its table here, but for ``STORE``: its schemes are a level database's
# (``stored``). A space without traits is one over blocks.
_COSTS: Mapping[Effect | None, Callable[[Decoder], TableCosts]] = {
    None: block_costs,
    Effect.DROP: block_costs,
    Effect.SILENCE: half_costs,
    Effect.CUT: part_costs,
    Effect.ZERO: linear_costs,
}


def measure_costs(decoder: Decoder, space: str) -> TableCosts:
    """What strategies of a space cost in the checkpoint of a model.

    Raises:
        UnsupportedModelError: If the model has not the units that the space is over.
        UnknownNameError: If its effects are counted otherwise: schemes from a level database.
    """
    count = _COSTS.get(traits_of(space).effect)
    if count is None:
        raise UnknownNameError(f"nobody counts what strategies of the space {quoted(space)} cost from a model alone")
    return count(decoder)


def with_serving(costs: TableCosts, decoder: Decoder) -> TableCosts:
    """The same with what a server needs beside the weights, where that can be seen.

    Args:
        costs: Of strategies over the model.
        decoder: The dense model; it is neither run nor changed.
    """
    found = served_sizes(decoder)
    if found is None:
        return costs
    kept = tuple(KeptState(**vars(layer)) for layer in found.layers)
    table = ServingTable(kept=kept, widest=found.widest, logits=found.logits)
    return replace(costs, table=costs.table.model_copy(update={"serving": table}))


def plain_table(sizes: ModelSizes, params: Sequence[int], size: Sequence[int]) -> CostTable:
    """The table of units that go whole, of so many parameters and bytes each."""
    return CostTable(
        unit_params=tuple(params),
        unit_bytes=tuple(size),
        total_params=sizes.total_params,
        total_bytes=sizes.total_bytes,
        dtype=sizes.dtype,
    )


def _with_norms(decoder: Decoder) -> dict[str, dict[str, Tensor]]:
    """Tensors of every half by full name, those of the norm before it among them."""
    with kept_tensors():
        state = decoder.model.state_dict(keep_vars=True)
    own: dict[str, dict[str, Tensor]] = {}
    for block, *halves in zip(decoder.block_names, *sublayer_names(decoder), strict=True):
        inside = {name: tensor for name, tensor in state.items() if name.startswith(f"{block}.")}
        own |= {
            half: {name: inside.pop(name) for name in list(inside) if name.startswith(f"{half}.")} for half in halves
        }
        norms = list(inside.items())  # in the order of the halves
        for place, half in enumerate(halves):
            own[half] |= norms[place * len(norms) // len(halves) : (place + 1) * len(norms) // len(halves)]
    return own


def _beside(
    decoder: Decoder, part: Parts, tensors: dict[str, Tensor] | None, *, compensate: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
    """What leaves beside its parts when a module goes whole, and the bias that it gains when it goes in part.

    ``tensors`` are all that leave, where these are more than the module's own.
    """
    module = decoder.model.get_submodule(part.name)
    rest = sum(map(Tensor.numel, tensors.values())) if tensors else count_parameters(module)
    if tensors is None:
        with kept_tensors():
            tensors = {f"{part.name}.{name}": tensor for name, tensor in module.state_dict(keep_vars=True).items()}
    output = decoder.model.get_submodule(part.output)
    weight = output.get_parameter("weight")
    rest -= part.count * part.params
    [whole] = tensor_bytes(decoder, tensors)
    rest_bytes = whole - part.count * part.params * weight.element_size()
    if not compensate or getattr(output, "bias", None) is not None:
        return (rest, rest_bytes), (0, 0)
    bias = torch.empty(weight.shape[0], dtype=weight.dtype, device="meta")
    return (rest, rest_bytes), (bias.numel(), tensor_bytes(decoder, {f"{part.output}.bias": bias})[0])
