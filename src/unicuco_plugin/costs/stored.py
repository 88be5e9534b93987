"""What units weigh in a checkpoint that stores them by schemes: the table of costs, from shapes alone."""

from collections.abc import Mapping, Sequence

import torch

from unicuco_plugin.costs.measure import plain_table
from unicuco_plugin.costs.model import TableCosts
from unicuco_plugin.models.blocks.decoder import Decoder
from unicuco_plugin.models.blocks.sizes import measure_sizes, tensor_bytes
from unicuco_plugin.models.tensors.storage import kept_tensors
from unicuco_plugin.schemes import DENSE, DENSE_BITS, Scheme, parse_scheme

__all__ = ["scheme_costs"]


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


def _stored(scheme: Scheme, name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """What stands for a weight in a file, without data."""
    kinds = {1: torch.int8, 2: torch.bfloat16, 4: torch.int32, 8: torch.int64}
    rows, columns = weight.shape
    return {
        f"{name}.{key}": torch.empty(shape, dtype=kinds[width], device="meta")
        for key, (shape, width) in scheme.tensors(rows, columns, weight.element_size()).items()
    }
