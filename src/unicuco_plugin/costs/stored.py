"""What units weigh in a checkpoint that stores them by schemes: the table of costs, from shapes alone."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch

from unicuco_plugin.costs.measure import plain_table
from unicuco_plugin.costs.model import TableCosts
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.sizes import measure_sizes, tensor_bytes
from unicuco_plugin.models.tensors.storage import kept_tensors
from unicuco_plugin.schemes import DENSE, DENSE_BITS, REMOVED, Scheme, parse_scheme
from unicuco_plugin.spaces.units import name_block

__all__ = ["leaving_costs", "scheme_costs"]


def scheme_costs(
    decoder: Decoder,
    units: Mapping[str, Sequence[str]],
    schemes: Mapping[str, Sequence[str]],
    weights: Mapping[str, torch.Tensor] | None = None,
) -> TableCosts:
    """What a server packs, stored by schemes or left alone, to the byte but for the header's padding.

    Args:
        decoder: The dense model.
        units: Unit → full names of its linears.
        schemes: Unit → schemes that it is offered, no two of the same bits.
        weights: Of every linear, with data or without; those of the model, experts as linears of their own, if left
            out.

    Raises:
        UnsupportedModelError: If the model has no floating-point parameter.
        StrategyError: If a name is none of a scheme.
    """
    sizes = measure_sizes(decoder)
    if weights is None:
        with kept_tensors():
            weights = {name: linear.weight for name, linear in decoder.all_linears().items()}
    groups = [{f"{name}.weight": weights[name] for name in members} for members in units.values()]
    choices: list[list[tuple[str, float]]] = []
    for unit, members in units.items():
        count = sum(weights[name].numel() for name in members)
        row = [(DENSE, float(DENSE_BITS))]
        for scheme in schemes[unit]:
            used = parse_scheme(scheme)
            bits = sum(used.bits_per_weight(weights[name].shape[1]) * weights[name].numel() for name in members)
            row.append((scheme, bits / count))
            groups.append(
                {key: tensor for name in members for key, tensor in _stored(used, name, weights[name]).items()}
            )
        choices.append(row)
    found = tensor_bytes(decoder, *groups)
    dense, stored = found[: len(units)], iter(found[len(units) :])
    rows = [
        sorted(((name, bits, own if name == DENSE else next(stored)) for name, bits in row), key=lambda c: -c[1])
        for row, own in zip(choices, dense, strict=True)
    ]
    params = tuple(sum(weights[name].numel() for name in members) for members in units.values())
    table = plain_table(sizes, params, dense).model_copy(update={"choices": tuple(map(tuple, rows))})
    return TableCosts(tuple(units), table, physical=True)


def leaving_costs(decoder: Decoder, costs: TableCosts, stay: Collection[str] = ()) -> TableCosts:
    """The same where whole blocks may be gone: norms, biases and linears that are no units leave with the units.

    Args:
        decoder: The dense model.
        costs: As :func:`scheme_costs` gives them.
        stay: Names of blocks that may not leave, beside those that have no unit.
    """
    sizes, table = measure_sizes(decoder), costs.table
    own = [name_block(unit) for unit in costs.units]
    blocks = {}
    for block, params, size in zip(decoder.block_names, sizes.block_params, sizes.block_bytes, strict=True):
        inside = [unit for unit, name in enumerate(own) if name == block]
        if inside and block not in stay:
            beside = params - sum(table.unit_params[i] for i in inside), size - sum(table.unit_bytes[i] for i in inside)
            blocks[block] = max(beside[0], 0), max(beside[1], 0)
    gone = (REMOVED, 0.0, 0)
    choices = tuple((*row, gone) if name in blocks else row for row, name in zip(table.choices, own, strict=True))
    return replace(costs, table=table.model_copy(update={"blocks": blocks, "choices": choices}))


def _stored(scheme: Scheme, name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """What stands for a weight in a file, without data."""
    kinds = {1: torch.int8, 2: torch.bfloat16, 4: torch.int32, 8: torch.int64}
    rows, columns = weight.shape
    return {
        f"{name}.{key}": torch.empty(shape, dtype=kinds[width], device="meta")
        for key, (shape, width) in scheme.tensors(rows, columns, weight.element_size()).items()
    }
